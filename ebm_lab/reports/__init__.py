"""Pages over runs: methods side by side, and all runs of a directory."""
