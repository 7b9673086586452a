"""Write one page over all runs of a directory."""

from pathlib import Path

from pydantic import NonNegativeFloat, PositiveInt

from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError


def report(
    *,
    outputs: str = "outputs",
    out: str | None = None,
    title: str | None = None,
    points: PositiveInt = 200,
    embed: NonNegativeFloat = 30.0,
) -> None:
    """Write one static HTML page over all runs under a directory: table, curves, pictures, settings.

    outputs: where the runs are; out: the file to write (default: <outputs>/report.html); points: most points per curve;
    embed: megabytes of pictures to put into the page, which links the others to the run directories.
    """
    from ebm_lab.reports.overview.collect import find, read, searches
    from ebm_lab.reports.overview.page import page

    root = Path(outputs)
    if not root.is_dir():
        raise UserError(f"outputs={outputs}: no such directory")
    runs = [read(path, max(2, points)) for path in find(root)]
    if not runs:
        raise UserError(f"outputs={outputs}: no runs there; train one with: python train.py")
    file = Path(out) if out else root / "report.html"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = page(runs, file.parent, title or f"Runs under {outputs}", int(embed * 1e6), searches(root))
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"out={file}: can't be written ({error.strerror})") from None
    print(f"{len(runs)} runs: {file}")


def main_report() -> None:
    """Run the console command `ebm-lab-report`."""
    main(report)
