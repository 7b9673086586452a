"""What a comparison runs: its cases, and the steps that one budget buys each of them.

An arm is a choice of objective and data set (and a value of the key that is varied); a case is an arm with a seed.
Every case of an arm trains for the same number of steps,

    steps = budget / (cost of one step),

where the cost was measured in a short pilot of the arm, so that the learning rate's schedule ends with the budget.
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
LOOKS = 20
"""Evaluations of a run, evenly over its steps, where the gap to the truth is known."""
LOOK = ("evaluation=[likelihood]", "evaluation.likelihood.cells=150")
"""What is done then: quadrature, on a grid that costs little beside the training and is far finer than a mode."""
LOG_EVERY = 50
PILOT_STEPS = 150
OURS = (
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
"""Keys of a run that a comparison sets itself."""


@dataclass(frozen=True)
class Study:
    """What all cases share: `budget` in `unit` for training alone, and further overrides of the config. The unit recipe
    has no budget: each objective trains as its recipe says."""

    budget: float | None
    unit: Unit
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """A row of the table; `vary`: 'key=value', or nothing."""

    objective: str
    dataset: str
    vary: str = ""

    @property
    def name(self) -> str:
        return safe("_".join(filter(None, (self.objective, self.dataset, self.vary))))

    def overrides(self, study: Study) -> list[str]:
        own = [f"objective={self.objective}", f"dataset={self.dataset}"]
        own += [] if study.budget is None else ["compile=off"]  # a pilot's step is the run's, and no compiler is paid
        return [*own, *study.overrides, *([self.vary] if self.vary else []), "logger=none", "threads=1"]


@dataclass(frozen=True)
class Case:
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}_s{self.seed}"


@dataclass(frozen=True)
class Pilot:
    """What some first steps of an arm cost, each; `gap`: its gap to the truth can be known; the rest: its config's."""

    steps: int
    cpu_seconds: float
    grad_evals: float
    gap: bool
    warmup: int
    checkpoint_every: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def safe(text: str) -> str:
    """A name for a folder: what is odd in `text` is replaced, and then a digest keeps it apart from its like."""
    name = re.sub(r"[^\w.=+-]+", "-", text)
    if name == text and len(text) <= 80:
        return text
    return f"{name[:70]}-{hashlib.sha1(text.encode()).hexdigest()[:6]}"


def pieces(text: str) -> list[str]:
    """Split at the commas outside brackets: '[64],[64,64]' -> ['[64]', '[64,64]']."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts if p.strip()]


def varied(vary: str | None) -> list[str]:
    """'key=a,b' -> ['key=a', 'key=b']; one empty value where nothing varies. Raises UserError."""
    if not vary:
        return [""]
    key, equals, values = vary.partition("=")
    if not equals or not pieces(values):
        raise UserError(f"vary={vary}: give a key and values with commas between, as vary=optim.lr=1e-3,1e-2")
    mine([vary], "vary")
    return [f"{key.strip()}={value}" for value in pieces(values)]


def mine(overrides: Sequence[str], name: str) -> None:
    """Refuse overrides of what a comparison sets itself."""
    for override in overrides:
        key, equals, _ = override.lstrip("+~").partition("=")
        if not equals:
            raise UserError(f"{name}={override}: not of the form key=value")
        if key in OURS:
            raise UserError(f"{name}={override}: '{key}' is set by the comparison itself (budget, unit, seeds, ...)")


def cases(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Case]:
    """All arms with the first seed, then all with the second: what is cut short covers every arm."""
    return [Case(arm, seed) for seed, arm in itertools.product(seeds, arms)]


def runs_alike(cases: Sequence[Case], jobs: int) -> int:
    """Count the runs of an arm, one for each seed, for one that compiles: those that start together all do."""
    arms = len({case.arm for case in cases})
    together = math.ceil(jobs / max(1, arms))
    return max(1, len(cases) // max(1, arms) // together)


def pilot_arguments(arm: Arm, study: Study) -> list[str]:
    """The command line of an arm's pilot; where nothing is timed, a third of the steps counts as well."""
    steps = PILOT_STEPS if study.unit == "cpu_seconds" else LOG_EVERY
    looks = [f"steps={steps}", f"log_every={LOG_EVERY}", f"eval_every={steps}", *LOOK]
    return [*arm.overrides(study), *looks, "seed=0"]


def steps_for(study: Study, pilot: Pilot) -> int:
    """How many steps the budget buys."""
    assert study.budget is not None
    cost = 1.0 if study.unit == "steps" else getattr(pilot, study.unit)
    return max(1, math.floor(study.budget / cost + 1e-9))


def arguments(case: Case, study: Study, pilot: Pilot | None, alike: int = 1) -> list[str]:
    """The command line of a case; what is counted in steps shrinks where there are few."""
    if pilot is None:
        shared = [f"runs_alike={alike}"] if alike > 1 else []
        return [*case.arm.overrides(study), *shared, f"seed={case.seed}"]
    steps = steps_for(study, pilot)
    look = math.ceil(steps / LOOKS)
    plan = {
        "steps": steps,
        "eval_every": look if pilot.gap else steps,
        "log_every": min(LOG_EVERY, look),
        "checkpoint_every": min(pilot.checkpoint_every, max(1, steps // 4)),
        "optim.warmup": min(pilot.warmup, steps // 10),
        "seed": case.seed,
    }
    looked = LOOK if pilot.gap else ()
    return [*case.arm.overrides(study), *(f"{k}={v}" for k, v in plan.items()), *looked]
