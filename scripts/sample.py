"""Draw samples from a run, from noise: python scripts/sample.py run=<dir> n=64 [steps=1000] ..."""

from ebm_lab.cli.commands import sample

if __name__ == "__main__":
    sample()
