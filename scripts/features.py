"""Train a data set's feature classifier, once: python scripts/features.py dataset=digits [dataset.root=..] ..."""

from ebm_lab.cli.commands import features

if __name__ == "__main__":
    features()
