"""One static page over all runs: python scripts/report.py outputs [out=report.html] ..."""

from ebm_lab.cli.report import report
from ebm_lab.cli.tools import main

if __name__ == "__main__":
    main(report)
