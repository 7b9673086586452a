"""The edge: the only place that knows Hydra. Command line, composition of configs, and what to say of mistakes."""
