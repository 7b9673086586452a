"""Evaluate a run on its test split: python scripts/evaluate.py run=<dir> [which=last|best] [samples=200] ..."""

from ebm_lab.cli.tools import evaluate, main

if __name__ == "__main__":
    main(evaluate)
