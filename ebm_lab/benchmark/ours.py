"""The lab's own contestants: built from the registry with the lab's configs, stepped by the trainer's own step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ebm_lab.benchmark.timing import Work
from ebm_lab.core.interfaces import Sampler
from ebm_lab.experiment import assemble
from ebm_lab.training.trainer import Trainer

Compose = Callable[[Sequence[str]], Mapping[str, Any]]
"""What `train.py` composes for some overrides: given by the command line, which alone knows Hydra."""
QUIET = ("logger=none", "evaluation=[]", "device=cpu", "steps=1000000", "optim.schedule=constant")


def build(compose: Compose, overrides: Sequence[str], threads: int, extra: Sequence[str] = ()) -> Trainer:
    """A run that is never finished, without evaluations and loggers."""
    return assemble(compose([*QUIET, f"threads={threads}", *overrides, *extra]))[0]


def can_compile(compose: Compose) -> bool:
    """Has the lab a compiled step to be told on or off?"""
    return "compile" in compose([])


def stepping(trainer: Trainer) -> Work:
    """One training step a call, as `fit` takes them."""

    def work() -> None:
        trainer._train_step(trainer.counters.step + 1)

    return work


def sampling(trainer: Trainer, chains: int) -> Work:
    """One call of the run's sampler a call, each going on where the last one ended."""
    sampler, energy, generator = trainer.sampler, trainer.objective.energy, trainer.generator
    assert isinstance(sampler, Sampler)
    x, state = trainer.dataset.start.sample(chains, generator), {}

    def work() -> None:
        nonlocal x, state
        chain = sampler(energy, x, state, generator=generator)
        x, state = chain.x, chain.state

    return work


def size_of_step(sampler: Any) -> float:
    """eps, in data units, of a sampler's first step."""
    return float(sampler.step_size.initial if hasattr(sampler, "step_size") else sampler.eps)
