"""Reports: a comparison of methods, and an overview of all runs in a directory."""
