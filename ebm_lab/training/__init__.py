"""Training: the loop, its optimisers, moving average, checkpoints and guard."""
