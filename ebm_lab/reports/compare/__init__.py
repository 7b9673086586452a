"""Training methods side by side under one budget: what to run, how to run it, and how to show what came out."""
