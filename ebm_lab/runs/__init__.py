"""The life of a run: from settings to parts, training, resuming and loading."""
