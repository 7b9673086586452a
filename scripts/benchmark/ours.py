"""The lab's own contestants: built from the registry with the lab's configs, stepped by the trainer's own step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ebm_lab.core.interfaces import Sampler
from ebm_lab.distributions.start import start_law
from ebm_lab.runs.assemble import assemble
from ebm_lab.training.trainer import Trainer
from scripts.benchmark.timing import Work

Compose = Callable[[Sequence[str]], Mapping[str, Any]]
"""Compose the config of `train.py`; passed in by the command line, the only part that imports Hydra."""
QUIET = (
    "logger=none",
    "evaluation=[]",
    "device=cpu",
    "steps=1000000",
    "optim.schedule=constant",
    "compile=off",
    "preprocess=none",
)


def build(compose: Compose, overrides: Sequence[str], threads: int, extra: Sequence[str] = ()) -> Trainer:
    """Build a run without evaluations and loggers, and with more steps than are ever taken."""
    return assembled(compose, [*QUIET, f"threads={threads}", *overrides, *extra])


def assembled(compose: Compose, overrides: Sequence[str]) -> Trainer:
    return assemble(compose(overrides))[0]


@dataclass(frozen=True)
class Variant:
    """Another way for the lab to do the same work: `off` for ours, `on` for it.
    `kind`, `what` and `where`: of the cases that it is for; empty: of all."""

    name: str
    kind: str
    what: tuple[str, ...]
    where: str
    off: str
    on: str


BF16 = ("precision=float32", "precision=bfloat16")
VARIANTS = (
    Variant("ours compiled", "steps", (), "", "compile=off", "compile=on"),
    Variant("ours compiled", "levels", (), "", "compile=off", "compile=on"),
    Variant("ours bf16", "samplers", ("langevin",), "pixels", *BF16),
    Variant("ours bf16", "steps", ("cd", "dsm", "ssm"), "pixels", *BF16),
)


BASELINE = tuple(dict.fromkeys(v.off for v in VARIANTS))
"""Overrides that switch every variant off."""


def variants(kind: str, what: str, where: str) -> list[Variant]:
    """Return the variants of a case."""
    return [v for v in VARIANTS if v.kind == kind and v.where in where and (not v.what or what in v.what)]


def stepping(trainer: Trainer) -> Work:
    """Return a function that takes one training step per call, as `fit` does."""

    def work() -> None:
        trainer._train_step(trainer.state.costs.step + 1)

    return work


def sampling(trainer: Trainer, chains: int) -> Work:
    """Return a function that calls the run's sampler, each time from the last state."""
    sampler, energy, generator = trainer.evaluations.sampler, trainer.state.objective.energy, trainer.state.generator
    assert isinstance(sampler, Sampler)
    x, state = start_law(trainer.evaluations.dataset).sample(chains, generator), {}

    half = trainer.state.config.get("precision") == "bfloat16"  # as in training, where the trainer casts the whole step

    def work() -> None:
        nonlocal x, state
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            chain = sampler(energy, x, state, generator=generator)
        x, state = chain.x, chain.state

    return work


def size_of_step(sampler: Any) -> float:
    """Return the step size eps of a sampler's first step, in data units."""
    return float(sampler.step_size.initial if hasattr(sampler, "step_size") else sampler.eps)
