"""Plan a comparison: its cases, and the number of training steps that the budget allows each of them.

An arm is a choice of objective and data set (and a value of the varied key); a case is an arm with a seed. Every case
of an arm trains for the same number of steps,

    steps = budget / (cost of one step),

where the cost is measured in a short pilot of the arm, so that the learning rate's schedule ends with the budget.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ebm_lab.core.errors import UserError

Unit = Literal["cpu_seconds", "grad_evals", "steps", "recipe"]
EVALUATIONS = 20
"""Evaluations of a run, evenly spaced over its steps, if the gap to the truth is known."""
EVALUATION = ("evaluation=[likelihood]", "evaluation.likelihood.cells=150")
"""Settings of each: quadrature on a grid that costs little compared with training and is far finer than a mode."""
LOG_EVERY = 50
PILOT_STEPS = 150
RESERVED = (
    "objective",
    "dataset",
    "seed",
    "steps",
    "threads",
    "max_seconds",
    "logger",
    "output_dir",
    "resume",
    "runs_alike",
    "evaluation",
    "log_every",
    "eval_every",
    "checkpoint_every",
)
"""Keys of a run that the comparison sets itself."""


@dataclass(frozen=True)
class Study:
    """The conditions that all cases share.

    `budget`: budget of the training alone, in `unit`. The unit `recipe` has no budget: each objective trains as its
    recipe says. `overrides`: further overrides of the config.
    """

    budget: float | None
    unit: Unit
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """A row of the table. `vary`: 'key=value', or '' if nothing is varied."""

    objective: str
    dataset: str
    vary: str = ""

    @property
    def name(self) -> str:
        return safe("_".join(filter(None, (self.objective, self.dataset, self.vary))))

    def overrides(self, study: Study) -> list[str]:
        own = [f"objective={self.objective}", f"dataset={self.dataset}"]
        own += [] if study.budget is None else ["compile=off"]  # so that a step costs what it did in the pilot
        return [*own, *study.overrides, *([self.vary] if self.vary else []), "logger=none", "threads=1"]


@dataclass(frozen=True)
class Case:
    """An arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}_s{self.seed}"


@dataclass(frozen=True)
class Pilot:
    """The cost per step in an arm's pilot. `gap`: its gap to the truth is known; the rest is from the config."""

    steps: int
    cpu_seconds: float
    grad_evals: float
    gap: bool
    warmup: int
    checkpoint_every: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def safe(text: str) -> str:
    """Return a name for a folder; if it must replace characters or be cut, a digest keeps the name unique."""
    name = re.sub(r"[^\w.=+-]+", "-", text)
    if name == text and len(text) <= 80:
        return text
    return f"{name[:70]}-{hashlib.sha1(text.encode()).hexdigest()[:6]}"


def pieces(text: str) -> list[str]:
    """Split at commas outside brackets: '[64],[64,64]' -> ['[64]', '[64,64]']."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts if p.strip()]


def varied(vary: str | None) -> list[str]:
    """Expand 'key=a,b' to ['key=a', 'key=b'], and nothing to ['']. Raises UserError for any other form."""
    if not vary:
        return [""]
    key, equals, values = vary.partition("=")
    if not equals or not pieces(values):
        raise UserError(f"vary={vary}: give a key and values with commas between, as vary=optim.lr=1e-3,1e-2")
    mine([vary], "vary")
    return [f"{key.strip()}={value}" for value in pieces(values)]


def mine(overrides: Sequence[str], name: str) -> None:
    """Raise UserError for an override of a key that the comparison sets itself."""
    for override in overrides:
        key, equals, _ = override.lstrip("+~").partition("=")
        if not equals or not re.fullmatch(r"[\w.@/-]+", key):
            raise UserError(f"{name}={override}: not of the form key=value")
        if key in RESERVED:
            raise UserError(f"{name}={override}: '{key}' is set by the comparison itself (budget, unit, seeds, ...)")


def cases(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Case]:
    """Return all arms with the first seed, then all with the second, so that a partial comparison covers every arm."""
    return [Case(arm, seed) for seed, arm in itertools.product(seeds, arms)]


def runs_alike(cases: Sequence[Case], jobs: int) -> int:
    """Return the number of an arm's runs for each one that compiles; runs that start together each compile."""
    arms = len({case.arm for case in cases})
    simultaneous = math.ceil(jobs / max(1, arms))
    return max(1, len(cases) // max(1, arms) // simultaneous)


def pilot_arguments(arm: Arm, study: Study) -> list[str]:
    """Return the command line of an arm's pilot; a third of the steps suffices if time is not measured."""
    steps = PILOT_STEPS if study.unit == "cpu_seconds" else LOG_EVERY
    plan = [f"steps={steps}", f"log_every={LOG_EVERY}", f"eval_every={steps}", *EVALUATION]
    return [*arm.overrides(study), *plan, "seed=0"]


def steps_for(study: Study, pilot: Pilot) -> int:
    """Return the number of steps that the budget allows."""
    assert study.budget is not None
    cost = 1.0 if study.unit == "steps" else getattr(pilot, study.unit)
    return max(1, math.floor(study.budget / cost + 1e-9))


def arguments(case: Case, study: Study, pilot: Pilot | None, alike: int = 1) -> list[str]:
    """Return the command line of a case; intervals and warm-up shrink if there are few steps."""
    if pilot is None:
        shared = [f"runs_alike={alike}"] if alike > 1 else []
        return [*case.arm.overrides(study), *shared, f"seed={case.seed}"]
    steps = steps_for(study, pilot)
    interval = math.ceil(steps / EVALUATIONS)
    plan = {
        "steps": steps,
        "eval_every": interval if pilot.gap else steps,
        "log_every": min(LOG_EVERY, interval),
        "checkpoint_every": min(pilot.checkpoint_every, max(1, steps // 4)),
        "optim.warmup": min(pilot.warmup, steps // 10),
        "seed": case.seed,
    }
    evaluation = EVALUATION if pilot.gap else ()
    return [*case.arm.overrides(study), *(f"{k}={v}" for k, v in plan.items()), *evaluation]
