"""Measure and draw the identities that connect the objectives: python scripts/theory.py out=docs"""

import sys
from pathlib import Path

from ebm_lab.cli.commands import command

if __name__ == "__main__":
    with command():
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes `scripts` importable
        from scripts.theory.command import main_theory

        main_theory()
