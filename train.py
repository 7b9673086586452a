"""Train an energy-based model: `python train.py --help`."""

from ebm_lab.cli.main import main

if __name__ == "__main__":
    main()
