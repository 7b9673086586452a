"""Write docs/results.md from its template and the studies in docs/results: python scripts/results.py out=docs"""

from pathlib import Path

from ebm_lab.cli.tools import main


def results(*, out: str = "docs") -> None:
    """Fill <out>/results/results.md.j2 with the numbers of the studies in its directory, and write <out>/results.md."""
    from ebm_lab.reports.compare.results import render

    folder = Path(out)
    render(folder / "results" / "results.md.j2", folder / "results", folder / "results.md")
    print(folder / "results.md")


if __name__ == "__main__":
    main(results)
