"""Optimisers: the options of the config group `optim`."""
