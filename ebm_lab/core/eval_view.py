"""What an evaluation sees of a run, and what it gives back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ebm_lab.core.derived import Tempered
from ebm_lab.core.features import Part, features_of, unmet
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Dataset, Sampleable, Sampler

NUMBERS = 2**18
"""Chains are sampled by as many at a time as hold so many numbers, 500 at least: more would only wait for memory."""


def walk(
    sampler: Sampler, energy: EnergyFn, x: Tensor, steps: int, generator: Generator
) -> Iterator[tuple[int, Tensor, Mapping[str, Tensor]]]:
    """(steps taken, states, the sampler's metrics) at the start x and after each call, until `steps` are taken."""
    taken = 0
    yield taken, x, {}
    state = sampler.begin(energy, x, generator)
    while taken < steps:
        x, state, metrics, _ = sampler(energy, x, state, generator=generator)
        taken += sampler.steps
        yield taken, x, metrics


class Share(NamedTuple):
    """This process draws one of `among` shares of the samples; `join`: (n, *shape) of each -> those of all."""

    among: int = 1
    join: Callable[[Tensor], Tensor] = lambda x: x


@dataclass
class EvalView:
    """What an evaluation may look at: the EMA energy, the data, and samples drawn from noise on first use."""

    energy: EnergyFn
    dataset: Dataset
    split: Literal["val", "test"]
    sampler: Sampler | None
    count: int
    """How many samples are drawn."""
    steps: int
    """Sampler steps from noise to sample, unless the sampler has a number of its own."""
    generator: Generator
    """Of the evaluation that looks."""
    temperature: float = 1.0
    """Samples are drawn from exp(-E / temperature)."""
    sampling: Generator | None = None
    """What samples are drawn with; the evaluation's own, if none is given."""
    share: Share = field(default_factory=Share)
    origin: Sampleable | None = None
    """Where the chains begin, if the method says; None: at noise."""
    step: int = 0
    """The training step after which the run is looked at."""
    blur: float = 0.0
    """The objective learns the data's law blurred by N(0, blur^2 I), in data units."""

    def has(self, feature: str) -> bool:
        """Say whether the model has this feature (features.py)."""
        return feature in features_of(self.energy)

    @property
    def target(self) -> EnergyFn:
        """The energy whose law the run samples."""
        return self.energy if self.temperature == 1 else Tempered(self.energy, self.temperature)

    @property
    def held_out(self) -> Tensor:
        return self.dataset.val if self.split == "val" else self.dataset.test

    @cached_property
    def trajectory(self) -> list[tuple[int, Tensor]]:
        """(step, (count, *shape)) states of the same chains, from `origin` or noise at step 0 to the samples."""
        if self.sampler is None:
            return []
        size, own = max(500, NUMBERS // self.dataset.mean.numel()), -(-self.count // self.share.among)
        parts = [self._trajectory(min(size, own - first)) for first in range(0, own, size)]
        moments = [(moment[0][0], torch.cat([x for _, x in moment])) for moment in zip(*parts, strict=True)]
        return [(step, self.share.join(x)[: self.count]) for step, x in moments]

    @property
    def film(self) -> list[tuple[int, Tensor]]:
        """The name of `trajectory` in older plugins."""
        return self.trajectory

    def _trajectory(self, n: int) -> list[tuple[int, Tensor]]:
        assert self.sampler is not None, "trajectory asks"
        generator = self.sampling or self.generator
        start = (self.origin or self.noise).sample(n, generator)
        steps = self.sampler.total(self.energy) or self.steps
        frames = []
        for step, x, metrics in walk(self.sampler, self.target, start, steps, generator):
            frames.append((step, x))
            self.chain_metrics = metrics
        return frames

    @property
    def noise(self) -> Sampleable:
        """The law where chains from noise begin: the sampler's own, else the run's `start`."""
        own = None
        if self.sampler is not None:
            begin: Callable[..., Sampleable | None] = self.sampler.start
            older = len(signature(begin).parameters) == 2  # a plugin of before wants the data set too
            own = begin(self.energy, self.dataset) if older else begin(self.energy)
        law = self.start if own is None else own
        assert law is not None, "whoever asks for samples says where they begin"
        return law

    chain_metrics: Mapping[str, Tensor] = field(default_factory=dict)
    learnt_log_z: float | None = None
    """The objective's own estimate of log Z, in nats, where it has one."""
    averaged: bool = True
    """Whether the weights are averages over the training (EMA), or the raw ones of its last step."""
    start: Sampleable | None = None
    """Where chains begin, unless the sampler has a law of its own."""
    chains: Tensor | None = None
    """(N, *shape) persistent chains of the training, where there are any."""
    chain_labels: Tensor | None = None
    """(N,) their labels, where they have any."""

    @property
    def samples(self) -> Tensor:
        """(count, *shape); only where the run has a sampler."""
        return self.trajectory[-1][1]


def too_few(view: EvalView, *, held_out: int = 1, train: int = 1, samples: int = 0) -> str | None:
    """None, or which of these numbers of points the run does not have."""
    asked = {
        "held-out points": (held_out, len(view.held_out)),
        "training points": (train, len(view.dataset.train)),
        "samples": (samples, view.count),
    }
    lacking = [f"{least} {what}, and has {n}" for what, (least, n) in asked.items() if n < least]
    return f"needs at least {' and '.join(lacking)}" if lacking else None


@dataclass
class Report:
    """metrics: name to number; images: name to (3, H, W) uint8; notes: lines for the user, each said once per run."""

    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def finite(self, name: str) -> "Report":
        """The same without the metrics that are not finite, which a note of the evaluation `name` tells."""
        lost = [key for key, value in self.metrics.items() if not math.isfinite(value)]
        if not lost:
            return self
        kept = {key: value for key, value in self.metrics.items() if key not in lost}
        return Report(kept, self.images, [*self.notes, f"{name}: left out, for not finite: {', '.join(lost)}"])


class Evaluator(Protocol):
    def applies(self, view: EvalView) -> str | None:
        """None, or the reason why this evaluation says nothing about this run."""
        ...

    def __call__(self, view: EvalView) -> Report: ...


class Evaluation(Part, ABC):
    """Looks at a run and reports numbers and pictures. Where one of its `needs` is not met it is left out, for the
    need's `why`; `applies` is asked next, for what only values tell."""

    silent: bool = False
    """Goes without a word where it does not apply: it is among the evaluations of a run that asks for none."""

    def applies(self, view: EvalView) -> str | None:
        """Return None, or the reason why this evaluation says nothing about this run."""
        return None

    @abstractmethod
    def __call__(self, view: EvalView) -> Report: ...


def is_silent(evaluator: Evaluator) -> bool:
    """Return whether an evaluation that does not apply to a run goes without a word."""
    return isinstance(evaluator, Evaluation) and evaluator.silent


def reason_against(evaluator: Evaluator, view: EvalView) -> str | None:
    """Return the reason why an evaluation says nothing about this run; None: it applies."""
    if isinstance(evaluator, Evaluation):
        offers = {"energy": features_of(view.energy), "dataset": features_of(view.dataset)}
        for need in unmet(evaluator.found_needs(), offers):
            return need.why or f"it needs a {need.role} with the feature '{need.feature}'"
    return evaluator.applies(view)
