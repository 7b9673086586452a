"""Loggers: where a run's numbers and pictures go."""
