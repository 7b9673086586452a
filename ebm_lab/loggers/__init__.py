"""Loggers: the options of the config group `logger`, and the console and files that every run has."""
