"""Continue a sweep: python scripts/sweep.py resume=outputs/sweeps/<time> runs only missing and unfinished jobs."""

from ebm_lab.cli.commands import sweep

if __name__ == "__main__":
    sweep()
