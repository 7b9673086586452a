"""Compare speed with a plain loop and other libraries: python scripts/benchmark.py [only=samplers,steps] [rounds=31]"""

import sys
from pathlib import Path

from ebm_lab.cli.commands import command

if __name__ == "__main__":
    with command():
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes `scripts` importable
        from scripts.benchmark.command import main_benchmark

        main_benchmark()
