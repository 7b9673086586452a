"""The columns of a comparison's tables, with meaning, unit and the direction that is better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import metrics
from ebm_lab.reports.compare.table import THRESHOLD, Line, Spread


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    unit: str
    good: str
    """'lower', 'higher' or ''."""
    meaning: str


class Cell(NamedTuple):
    """The text of a cell, its range over seeds, and the number by which it is sorted."""

    text: str
    range: str
    sort: float
    """Infinite if there is no number, so that the cell is sorted last."""


TO_THRESHOLD = (
    Column(
        "cpu_seconds_to",
        f"time to {THRESHOLD:g} nats",
        "CPU-seconds",
        "lower",
        f"training time at the first evaluation with a validation gap of at most {THRESHOLD:g} nats; a run has 20, "
        "evenly spaced, so that no time is less than a twentieth of the budget. 'never' if no evaluation reached it.",
    ),
    Column("grad_evals_to", f"gradients to {THRESHOLD:g} nats", "", "lower", "the same in gradient evaluations."),
)
TOTAL = Column(
    "cpu_seconds", "CPU time in all", "CPU-seconds", "lower", "of the whole process, with start-up and evaluation."
)
SPENT = (
    Column(
        "grad_evals",
        "gradients",
        "",
        "",
        "gradients of the energy of one sample, in x or in the parameters, taken during the whole training.",
    ),
    Column(
        "train_cpu_seconds",
        "training",
        "CPU-seconds",
        "",
        "time that the training actually used, without start-up and evaluation.",
    ),
    Column(
        "step",
        "steps",
        "",
        "",
        "parameter updates up to the weights that were kept; 0: those of the beginning, which are the base if the "
        "energy has one.",
    ),
)


def declared(metric: Metric, key: str = "") -> Column:
    """Return the column of a declared metric, or of one of its family."""
    key = key or metric.name
    return Column(key, metric.title or key, metric.unit, metric.good, metric.meaning or BY_NAME)


BY_NAME = "as reported by the evaluation of that name."


def column(key: str) -> Column:
    """Return the column for any number in a summary."""
    fixed = next((c for c in (*TO_THRESHOLD, *SPENT, TOTAL) if c.key == key), None)
    metric = metrics().find(key)
    return fixed or (declared(metric, key) if metric else Column(key, key, "", "", BY_NAME))


def columns(lines: Sequence[Line], asked: Sequence[str] = ()) -> list[Column]:
    """Return the columns for which some line has a number.

    First come those of the gap, or else the other metrics, then the requested ones (`asked`), then the costs.
    """
    there = {key for line in lines for key in line.spreads}
    gap, others = (column("nll_gap"), *TO_THRESHOLD), [declared(m) for m in metrics().shown("compare")]
    head = gap if gap[0].key in there else others
    more = [column(key) for key in asked]
    return [c for c in dict.fromkeys((*head, *more, *SPENT)) if c.key in there]


def cell(line: Line, column: Column) -> Cell:
    """Return median and range as text; an infinite time is 'never'."""
    spread = line.spreads.get(column.key)
    if spread is None:
        return Cell("–", "", math.inf)
    show = _never if column.key.endswith("_to") else number
    extent = f"{show(spread.low)} to {show(spread.high)}"
    return Cell(show(spread.middle), extent if spread.low != spread.high else "", spread.middle)


def _never(value: float) -> str:
    return "never" if value == math.inf else number(value)


def number(value: float) -> str:
    """Format with three significant digits, two below 0.01: 0.0043, 12.3, 1,234, 12.3 k, 1.23 M."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    value = float(f"{value:.3g}") if abs(value) >= 1e4 or abs(value) < 1000 else round(value)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g} {letter}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 if abs(value) >= 0.01 else 2
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def best(lines: Sequence[Line]) -> tuple[Line, Line] | None:
    """Return the lines of least and greatest median gap; None if fewer than two have one."""
    known = [line for line in lines if line.gap is not None]
    return (known[0], known[-1]) if len(known) > 1 else None


def fastest(lines: Sequence[Line]) -> Line | None:
    """Return the line that reaches the threshold first; None if none does."""
    timed = [n for n in lines if n.spreads.get("cpu_seconds_to", Spread(math.inf, 0, 0)).middle < math.inf]
    return min(timed, key=lambda n: n.spreads["cpu_seconds_to"].middle, default=None)
