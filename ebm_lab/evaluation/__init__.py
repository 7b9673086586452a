"""Evaluations: measure a trained model, in numbers and pictures."""
