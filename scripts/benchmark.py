"""Races against a plain loop and other libraries: python scripts/benchmark.py [only=samplers,steps] [rounds=31] ..."""

from ebm_lab.cli.commands import benchmark

if __name__ == "__main__":
    benchmark()
