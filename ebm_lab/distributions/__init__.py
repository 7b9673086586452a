"""Distributions with exact samples and densities, fits to data, and numerical integration."""
