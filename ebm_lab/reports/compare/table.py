"""The results: a row per run, a line per arm with medians and ranges over seeds, and the gap over time.

A diverged run counts as an infinite gap, and a gap of 0.1 nats that was never reached as an infinite time, so that
neither is left out of a median. A run that failed or has not ended says nothing about its method: it is not in the
median, but is listed.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ebm_lab.core.errors import UserError
from ebm_lab.reports.compare.plan import Arm, Case, Study
from ebm_lab.reports.compare.runner import Runner, metrics, newest, read, summary_of

THRESHOLD = 0.1
"""Held-out gap in nats; the time at which a run first reaches it is reported."""
COLUMNS = (
    *("objective", "dataset", "vary", "seed", "status", "nll_gap", "cpu_seconds_to", "grad_evals_to"),
    *("train_cpu_seconds", "grad_evals", "step", "steps", "rollbacks", "budget", "unit"),
    *("pilot_cpu_seconds", "pilot_grad_evals", "startup_cpu_seconds", "eval_cpu_seconds", "cpu_seconds", "seconds"),
    *("parameters", "git_commit", "torch", "overrides", "run", "message"),
)
"""Columns of comparison.csv, before the metrics."""
OMITTED = (
    "format",
    "pid",
    "best",
    "best_step",
    "startup_seconds",
    "eval_seconds",
    "steps_per_second",
    "machine_threads",
)
"""Numbers of a summary that are not in comparison.csv."""
TIMES = ("cpu_seconds_to", "grad_evals_to")
"""Columns of when a run first reached the threshold."""
TEXTS = ("objective", "dataset", "vary", "status", "unit", "git_commit", "torch", "overrides", "run", "message")

Row = dict[str, Any]
Point = tuple[float, float, float]
"""(CPU-seconds of training, gradient evaluations, gap in nats)"""


class Spread(NamedTuple):
    """Median and range over seeds; infinite for a run that diverged or never reached the threshold."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """An arm over its seeds. `spreads`: by column. `fates`: runs with trouble, in words. `seeds`: ended runs."""

    arm: Arm
    seeds: int
    spreads: dict[str, Spread]
    fates: list[str]
    typical: Row | None
    """The finished run with the gap nearest to the median; the first one if there are no gaps."""

    @property
    def gap(self) -> Spread | None:
        return self.spreads.get("nll_gap")


def row(case: Case, study: Study, runner: Runner) -> Row:
    """Return the row of a case: its settings, its status and all its numbers."""
    folder = runner.folder(case)
    run, summary, record = newest(folder), summary_of(folder), read(folder / "case.json")
    status = summary.get("status") or ("failed" if record.get("message") else "not run")
    pilot = record.get("pilot", {})
    known = {
        "objective": case.arm.objective,
        "dataset": case.arm.dataset,
        "vary": case.arm.vary,
        "seed": case.seed,
        "status": status,
        "budget": study.budget,
        "unit": study.unit,
        "overrides": " ".join(study.overrides),
        "steps": record.get("steps"),
        "pilot_cpu_seconds": pilot.get("cpu_seconds"),
        "pilot_grad_evals": pilot.get("grad_evals"),
        "torch": summary.get("versions", {}).get("torch"),
        "run": str(run.path.relative_to(runner.out)) if run else None,
        "message": None if status == "finished" else (summary.get("message") or record.get("message") or None),
    }
    reached = reach(curve(metrics(run), summary)) if run and status == "finished" else None
    if reached is not None:
        known["cpu_seconds_to"], known["grad_evals_to"] = reached[:2]
    later = read(run.path / "evaluation" / "evaluation.json") if run and record.get("evaluated") else {}
    shown = {k: v for k, v in {**later, **summary}.items() if k not in OMITTED}
    numbers = {k: v for k, v in shown.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    texts = {k: v for k, v in summary.items() if k == "git_commit"}
    return {**numbers, **texts, **known}


def curve(lines: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Point]:
    """Return the validation gaps of a run, followed by its final test gap."""
    points = [(r["train_cpu_seconds"], r["grad_evals"], r["val/nll_gap"]) for r in lines if "val/nll_gap" in r]
    if "nll_gap" in summary:
        points.append((summary["train_cpu_seconds"], summary["grad_evals"], summary["nll_gap"]))
    return points


def reach(points: Sequence[Point], threshold: float = THRESHOLD) -> Point | None:
    """Return the first point with a gap of at most `threshold` nats; None if there is none."""
    return next((p for p in points if p[2] <= threshold), None)


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return one line per arm, sorted by data set and then by median gap; arms without a gap come last."""
    groups: dict[Arm, list[Row]] = {}
    for r in rows:
        groups.setdefault(Arm(r["objective"], r["dataset"], r["vary"] or ""), []).append(r)
    known = {r["dataset"] for r in rows if r.get("nll_gap") is not None}
    found = [line(arm, mine, arm.dataset in known) for arm, mine in groups.items()]
    sets = list(dict.fromkeys(arm.dataset for arm in groups))
    return sorted(found, key=lambda n: (sets.index(n.arm.dataset), n.gap.middle if n.gap else math.inf, not n.seeds))


def line(arm: Arm, rows: Sequence[Row], gaps: bool) -> Line:
    """Return an arm's line. `gaps`: the data set's truth is known, so a diverged run counts as an infinite gap."""
    ended = [r for r in rows if r["status"] in ("finished", "diverged")]
    spreads = {}
    for column in sorted(
        {"nll_gap", *(k for r in ended for k, v in r.items() if isinstance(v, int | float))} - {"seed", *TIMES}
    ):
        values = [v for v in (_value(r, column, gaps) for r in ended) if v is not None]
        if values:
            spreads[column] = spread(values)
    timed = all(r.get("unit") != "recipe" for r in ended)  # a recipe has too few evaluations to tell a time by them
    if "nll_gap" in spreads and timed:
        for column in TIMES:
            spreads[column] = spread([math.inf if r.get(column) is None else r[column] for r in ended])
    fates = []
    for status in dict.fromkeys(r["status"] for r in rows if r["status"] != "finished"):
        fates.append(f"{sum(r['status'] == status for r in rows)} of {len(rows)} {status}")
    if back := sum(int(r.get("rollbacks") or 0) for r in ended):
        fates.append(f"{back} rollback{'s' if back > 1 else ''}")
    finished = [r for r in ended if r["status"] == "finished"]
    middle = spreads["nll_gap"].middle if "nll_gap" in spreads else 0.0
    typical = min(finished, key=lambda r: abs((r.get("nll_gap") or 0.0) - middle)) if finished else None
    return Line(arm, len(ended), spreads, fates, typical)


def _value(row: Row, column: str, gaps: bool) -> float | None:
    if column == "nll_gap" and gaps and row["status"] == "diverged":
        return math.inf
    value = row.get(column)
    return None if value is None or not isinstance(value, int | float) else float(value)


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def middle_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the median over seeds at each evaluation; where a curve has ended, that of the remaining ones."""
    longest = max((len(c) for c in curves), default=0)
    at = [[c[i] for c in curves if i < len(c)] for i in range(longest)]
    return [(median(p[0] for p in ps), median(p[1] for p in ps), median(p[2] for p in ps)) for ps in at]


def write_csv(rows: Sequence[Row], file: Path) -> None:
    more = sorted({k for r in rows for k in r} - set(COLUMNS))
    with open(file, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, *more], restval="")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in r.items()} for r in rows)


def read_csv(file: Path) -> list[Row]:
    """Read the rows of a comparison.csv. Raises UserError if there is no such file."""
    if not file.is_file():
        raise UserError(f"{file}: no such comparison")
    with open(file, newline="", encoding="utf-8") as stream:
        return [{k: _parse(k, v) for k, v in r.items()} for r in csv.DictReader(stream)]


def _parse(column: str, text: str) -> Any:
    if column in TEXTS:
        return text
    return None if text == "" else int(text) if column == "seed" else float(text)
