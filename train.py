"""Train an energy-based model: `python train.py --help`."""

from ebm_lab.cli.commands import train

if __name__ == "__main__":
    train()
