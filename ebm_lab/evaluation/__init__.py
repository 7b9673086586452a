"""Evaluations: what a trained energy is worth, in numbers and pictures."""
