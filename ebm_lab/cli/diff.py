"""Show how two runs differ: `ebm-lab diff <run> <run>`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ebm_lab.cli.tools import main, writable
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import metrics
from ebm_lab.core.settings import flat
from ebm_lab.runs.run_directory import RunDir

ELSEWHERE = ("output_dir", "logger.", "resume", "plugins", "runs_alike")
"""Beginnings of the keys that do not change what a run learns."""
COSTS = ("step", "grad_evals", "seconds", "train_cpu_seconds", "parameters")
ERROR = "_se"
ABSENT = "-"


class Row(NamedTuple):
    """A metric of two runs: value and standard error in each, None where unknown."""

    name: str
    a: float | None
    b: float | None
    a_error: float | None
    b_error: float | None

    @property
    def change(self) -> str:
        """b - a, with its standard error."""
        if self.a is None or self.b is None:
            return ""
        difference = self.b - self.a
        if self.a_error is None or self.b_error is None:
            return f"{difference:+.4g}"
        error = (self.a_error**2 + self.b_error**2) ** 0.5
        return f"{difference:+.4g} ± {error:.2g}"


def settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings in which two configs differ; '-' where one of them has no such setting."""
    left, right = flat(a), flat(b)
    keys = [k for k in dict.fromkeys([*left, *right]) if not k.startswith(ELSEWHERE)]
    return [
        (k, str(left.get(k, ABSENT)), str(right.get(k, ABSENT)))
        for k in keys
        if left.get(k, ABSENT) != right.get(k, ABSENT)
    ]


def results(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """Return the metrics and costs in two summaries, in the order of the tables, errors beside their metrics."""

    def number(summary: Mapping[str, Any], name: str) -> float | None:
        value = summary.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    table = metrics()
    found = [n for n in dict.fromkeys([*a, *b]) if table.find(n) or n in COSTS]
    errors = {n for n in found if n.endswith(ERROR) and n.removesuffix(ERROR) in found}
    rank = {n: m.rank if (m := table.find(n)) else 1000 for n in found}
    rows = [
        Row(n, number(a, n), number(b, n), number(a, n + ERROR), number(b, n + ERROR))
        for n in sorted(found, key=rank.__getitem__)
        if n not in errors
    ]
    return [row for row in rows if row.a is not None or row.b is not None]


def diff(
    *, run_a: str, run_b: str, picture: bool = True, out: str = "outputs/diff", plugins: list[str] | None = None
) -> None:
    """Show the settings in which two runs differ, their metrics with standard errors, and a picture of both.

    The last column is run_b - run_a; its error is that of two independent values. picture: write a PNG of the densities
    in one or two dimensions, or else of the samples that the runs have drawn; out: the folder for it.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    runs = [RunDir.open(path, key) for key, path in (("run_a", run_a), ("run_b", run_b))]
    configs, summaries = [run.read_config() for run in runs], [run.read_summary() for run in runs]
    console = Console(highlight=False)
    for letter, run, summary in zip("ab", runs, summaries, strict=True):
        console.print(escape(f"{letter}: {run.path}  ({summary['status']})"), soft_wrap=True)
    changed = settings(*configs)
    grid = Table(title="settings that differ" if changed else "no setting differs", title_justify="left")
    for column in ("setting", "a", "b"):
        grid.add_column(column, overflow="fold")
    for row in changed:
        grid.add_row(*map(escape, row))
    console.print(grid)
    grid = Table(title="results", title_justify="left")
    for column in ("metric", "a", "b", "b - a"):
        grid.add_column(column, justify="left" if column == "metric" else "right", overflow="fold")
    for row in results(*summaries):
        grid.add_row(row.name, _shown(row.a, row.a_error), _shown(row.b, row.b_error), row.change)
    console.print(grid)
    if picture:
        _draw(dict(zip("ab", runs, strict=True)), [c["objective"]["name"] for c in configs], plugins or [], Path(out))


def _draw(runs: dict[str, RunDir], objectives: list[str], plugins: list[str], out: Path) -> None:
    """Write the picture and print its path, or the reason why there is none."""
    from ebm_lab.cli import diff_picture
    from ebm_lab.core.pictures import save_png

    named = {f"{key} ({name})": run for (key, run), name in zip(runs.items(), objectives, strict=True)}
    try:
        image = diff_picture.picture(named, plugins)
    except UserError as error:
        return print(f"no picture: {error}")
    writable(out)
    path = out / f"{'_'.join(run.path.resolve().name for run in runs.values())[:200]}.png"
    save_png(image, path)
    print(f"picture: {path}")


def _shown(value: float | None, error: float | None) -> str:
    if value is None:
        return ABSENT
    if error is None:
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return f"{value:.4g} ± {error:.2g}"


def main_diff() -> None:
    """Run the console command `ebm-lab diff`."""
    main(diff)
