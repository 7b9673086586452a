"""Compare training methods under one budget: python scripts/compare.py objectives=pcd,dsm budget=60 jobs=2 ..."""

from ebm_lab.cli.commands import compare

if __name__ == "__main__":
    compare()
