"""The training step as one compiled graph."""
