"""Go on with a sweep: python scripts/sweep.py resume=outputs/sweeps/<time> runs only what is missing or unfinished."""

from ebm_lab.cli.commands import sweep

if __name__ == "__main__":
    sweep()
