"""Evaluate a run on its test split: python scripts/evaluate.py run=<dir> [evaluation=mmd,samples] [samples=200] ..."""

from ebm_lab.cli.evaluate import evaluate
from ebm_lab.cli.tools import main

if __name__ == "__main__":
    main(evaluate)
