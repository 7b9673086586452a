"""Samplers: Markov kernels for exp(-E(x)) / Z."""
