"""The columns of a comparison's tables: what each says, in which unit, and which direction is good."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


GAP = (
    Column(
        "nll_gap",
        "gap to the truth",
        "nats",
        "lower",
        "mean log-likelihood of held-out test points under the true density minus that under the model; an estimate of "
        "KL(truth || model), so 0 is perfect, and at 0.7 a typical point has half its density. Z is had by "
        "quadrature. A diverged run counts as infinite.",
    ),
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
OTHERS = (
    Column("flow_nll_gap", "gap by the flow", "nats", "lower", "the gap of the probability-flow ODE's likelihood."),
    Column(
        "mmd2",
        "MMD²",
        "",
        "lower",
        "maximum mean discrepancy between samples and held-out data, squared, unbiased: about its floor is as good as "
        "it can tell.",
    ),
    Column("mmd2_floor", "floor of MMD²", "", "", "the same between two halves of the real data."),
    Column("feature_fid", "feature-FID", "", "lower", "Frechet distance in the features of a small classifier."),
    Column(
        "confident_share",
        "confident share",
        "",
        "higher",
        "share of samples that a classifier of the real images gives more than 0.9, of 1.",
    ),
    Column("classes_found", "classes", "", "higher", "classes among those samples."),
)
ALL = {c.key: c for c in (*GAP, *SPENT, *OTHERS, TOTAL)}


def columns(lines: Sequence[Line], asked: Sequence[str] = ()) -> list[Column]:
    """Those that some of `lines` has a number for: the gap's or else the others', those asked for, what was spent."""
    there = {key for line in lines for key in line.spreads}
    head = GAP if "nll_gap" in there else OTHERS
    more = [ALL.get(key, Column(key, key, "", "", "as the evaluation of that name reports it.")) for key in asked]
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
