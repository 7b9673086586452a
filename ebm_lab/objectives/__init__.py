"""Objectives: what a training step minimises, one paper per file."""
