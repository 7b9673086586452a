"""Evaluate a run on its test split: python scripts/evaluate.py run=<dir> [evaluation=mmd,samples] [samples=200] ..."""

from ebm_lab.cli.commands import evaluate

if __name__ == "__main__":
    evaluate()
