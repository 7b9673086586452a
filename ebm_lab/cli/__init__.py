"""The command line, the composition of configs and their error lines; the only package that imports Hydra."""
