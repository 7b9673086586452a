"""Go on with a sweep: python scripts/sweep.py resume=outputs/sweeps/<time> runs only what is missing or unfinished."""

from ebm_lab.cli.sweep import sweep
from ebm_lab.cli.tools import main

if __name__ == "__main__":
    main(sweep)
