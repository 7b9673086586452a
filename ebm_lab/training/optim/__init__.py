"""The options of the group `optim`."""
