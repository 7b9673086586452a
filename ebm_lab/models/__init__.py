"""Networks, and the shared parts of models with many noise levels."""
