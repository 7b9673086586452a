"""Training methods side by side under one budget: python scripts/compare.py objectives=pcd,dsm budget=60 jobs=2 ..."""

from ebm_lab.cli.compare import compare
from ebm_lab.cli.tools import main

if __name__ == "__main__":
    main(compare)
