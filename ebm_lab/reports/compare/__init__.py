"""Compare training methods under one budget: plan the runs, run them, and show the results."""
