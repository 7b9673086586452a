"""The columns of a comparison's tables: what each says, in which unit, and which direction is good."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import metrics
from ebm_lab.reports.compare.table import THRESHOLD, Line, Spread


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    unit: str
    good: str
    """'lower', 'higher' or ''."""
    meaning: str


class Cell(NamedTuple):
    text: str
    range: str
    sort: float
    """Infinite where there is no number, so that it comes last."""


TO_THRESHOLD = (
    Column(
        "cpu_seconds_to",
        f"time to {THRESHOLD:g} nats",
        "CPU-seconds",
        "lower",
        f"training time at the first evaluation with a validation gap of at most {THRESHOLD:g} nats (a run has 20 "
        "evaluations, evenly spaced); never: it did not come there.",
    ),
    Column("grad_evals_to", f"gradients to {THRESHOLD:g} nats", "", "lower", "the same in gradient evaluations."),
)
TOTAL = Column(
    "cpu_seconds", "CPU time in all", "CPU-seconds", "lower", "of the whole process, start-up and evaluation among it."
)
SPENT = (
    Column(
        "grad_evals",
        "gradients",
        "",
        "",
        "gradients of the energy of one sample, in x or in the parameters, that the whole training took.",
    ),
    Column(
        "train_cpu_seconds",
        "training",
        "CPU-seconds",
        "",
        "what the training really used; start-up and evaluation are not in it.",
    ),
    Column("step", "steps", "", "", "parameter updates, as many as the budget buys by a short pilot."),
)


def declared(metric: Metric, key: str = "") -> Column:
    """Return the column of a declared metric, or of one of its family."""
    key = key or metric.name
    return Column(key, metric.title or key, metric.unit, metric.good, metric.meaning or BY_NAME)


BY_NAME = "as the evaluation of that name reports it."


def column(key: str) -> Column:
    """Return the column for anything that a summary holds."""
    fixed = next((c for c in (*TO_THRESHOLD, *SPENT, TOTAL) if c.key == key), None)
    metric = metrics().find(key)
    return fixed or (declared(metric, key) if metric else Column(key, key, "", "", BY_NAME))


def columns(lines: Sequence[Line], asked: Sequence[str] = ()) -> list[Column]:
    """Those that some of `lines` has a number for: the gap's or else the others', those asked for, what was spent."""
    there = {key for line in lines for key in line.spreads}
    gap, others = (column("nll_gap"), *TO_THRESHOLD), [declared(m) for m in metrics().shown("compare")]
    head = gap if gap[0].key in there else others
    more = [column(key) for key in asked]
    return [c for c in dict.fromkeys((*head, *more, *SPENT)) if c.key in there]


def cell(line: Line, column: Column) -> Cell:
    """Median and range; an infinite time is 'never'."""
    spread = line.spreads.get(column.key)
    if spread is None:
        return Cell("–", "", math.inf)
    show = _never if column.key.endswith("_to") else number
    extent = f"{show(spread.low)} to {show(spread.high)}"
    return Cell(show(spread.middle), extent if spread.low != spread.high else "", spread.middle)


def _never(value: float) -> str:
    return "never" if value == math.inf else number(value)


def number(value: float) -> str:
    """Three figures, two below 0.01: 0.0043, 12.3, 1,234, 12.3 k, 1.23 M."""
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
    """The lines of least and greatest median gap, where at least two have one."""
    known = [line for line in lines if line.gap is not None]
    return (known[0], known[-1]) if len(known) > 1 else None


def fastest(lines: Sequence[Line]) -> Line | None:
    """The line that comes soonest to the threshold, if any does."""
    timed = [n for n in lines if n.spreads.get("cpu_seconds_to", Spread(math.inf, 0, 0)).middle < math.inf]
    return min(timed, key=lambda n: n.spreads["cpu_seconds_to"].middle, default=None)
