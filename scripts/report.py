"""One static page over all runs: python scripts/report.py outputs [out=report.html] ..."""

from ebm_lab.cli.commands import report

if __name__ == "__main__":
    report()
