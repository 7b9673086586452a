"""The view of a run that an evaluation gets, and the report that it returns."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from ebm_lab.core.derived import tempered
from ebm_lab.core.features import Part, features_of, unmet
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Dataset, Objective, Sampleable, Sampler

NUMBERS = 2**18
"""Chains are sampled in batches of this many numbers, but at least 500 chains: larger ones are bound by memory."""


def walk(
    sampler: Sampler, energy: EnergyFn, x: Tensor, steps: int, generator: Generator
) -> Iterator[tuple[int, Tensor, Mapping[str, Tensor]]]:
    """Yield (steps taken, states, the sampler's metrics) at the start x and after each call, until `steps` are
    taken."""
    taken = 0
    yield taken, x, {}
    state = sampler.begin(energy, x, generator)
    while taken < steps:
        x, state, metrics, _ = sampler(energy, x, state, generator=generator)
        taken += sampler.steps
        yield taken, x, metrics


class Share(NamedTuple):
    """The share of the samples that this process draws, one of `among`; `join`: its (n, *shape) -> those of all."""

    among: int = 1
    join: Callable[[Tensor], Tensor] = lambda x: x


@dataclass
class EvalView:
    """What an evaluation can use: the EMA energy, the data, and samples that are drawn from noise on first use."""

    energy: EnergyFn
    dataset: Dataset
    split: Literal["val", "test"]
    sampler: Sampler | None
    count: int
    """Number of samples to draw."""
    steps: int
    """Sampler steps from noise to sample, unless the sampler defines its own number."""
    generator: Generator
    """The random generator of this evaluation."""
    temperature: float = 1.0
    """Samples are drawn from exp(-E / temperature)."""
    sampling: Generator | None = None
    """The generator that samples are drawn with; None: that of the evaluation."""
    share: Share = field(default_factory=Share)
    origin: Sampleable | None = None
    """The law from which chains start, if the objective defines one; None: noise."""
    step: int = 0
    """Number of training steps taken."""
    blur: float = 0.0
    """The law that the objective learns is the data's, blurred by N(0, blur^2 I); in data units."""

    objective: Objective | None = None
    """The objective that trained the energy, for evaluations of what else it has learnt: its critic, its chains."""

    def has(self, feature: str) -> bool:
        """Return whether the model has this feature; features.py lists the features."""
        return feature in features_of(self.energy)

    @property
    def target(self) -> EnergyFn:
        """The energy that samples are drawn from: E / temperature."""
        return tempered(self.energy, self.temperature)

    @property
    def held_out(self) -> Tensor:
        return self.dataset.val if self.split == "val" else self.dataset.test

    @cached_property
    def trajectory(self) -> list[tuple[int, Tensor]]:
        """(step, (count, *shape)) states of the same chains, to the samples: at step 0 they are draws from `origin`
        where the method has one, and from `noise` where it has none."""
        if self.sampler is None:
            return []
        size, own = max(500, NUMBERS // self.dataset.mean.numel()), -(-self.count // self.share.among)
        parts = [self._trajectory(min(size, own - first)) for first in range(0, own, size)]
        moments = [(moment[0][0], torch.cat([x for _, x in moment])) for moment in zip(*parts, strict=True)]
        return [(step, self.share.join(x)[: self.count]) for step, x in moments]

    def from_noise(self) -> Tensor:
        """(count, *shape) draws from `noise`: the chains' own starts where they begin there, else drawn afresh by the
        evaluation that asks."""
        return self.trajectory[0][1] if self.origin is None else self.noise.sample(self.count, self.generator)

    @property
    def film(self) -> list[tuple[int, Tensor]]:
        """The name of `trajectory` in older plugins."""
        return self.trajectory

    def _trajectory(self, n: int) -> list[tuple[int, Tensor]]:
        assert self.sampler is not None, "checked in trajectory"
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
        """The law from which chains start if there is no `origin`: the sampler's, else the run's `start`."""
        own = None
        if self.sampler is not None:
            begin: Callable[..., Sampleable | None] = self.sampler.start
            older = len(signature(begin).parameters) == 2  # older plugins take the data set too
            own = begin(self.energy, self.dataset) if older else begin(self.energy)
        law = self.start if own is None else own
        assert law is not None, "a view with a sampler that has no start law needs `start`"
        return law

    chain_metrics: Mapping[str, Tensor] = field(default_factory=dict)
    learnt_log_z: float | None = None
    """The objective's estimate of log Z in nats, if it has one."""
    averaged: bool = True
    """Whether the weights are averaged over training (EMA) or those of the last step."""
    start: Sampleable | None = None
    """The law from which chains start, unless the sampler has its own."""
    chains: Tensor | None = None
    """The persistent chains of training, (N, *shape), if there are any."""
    chain_labels: Tensor | None = None
    """The labels of `chains`, (N,), if they have any."""

    @property
    def samples(self) -> Tensor:
        """The samples, (count, *shape). The run must have a sampler."""
        return self.trajectory[-1][1]


def too_few(view: EvalView, *, held_out: int = 1, train: int = 1, samples: int = 0) -> str | None:
    """Return which of these numbers of points the run lacks, as the reason not to evaluate; None if it has enough."""
    asked = {
        "held-out points": (held_out, len(view.held_out)),
        "training points": (train, len(view.dataset.train)),
        "samples": (samples, view.count),
    }
    lacking = [f"{least} {what}, and has {n}" for what, (least, n) in asked.items() if n < least]
    return f"needs at least {' and '.join(lacking)}" if lacking else None


@dataclass
class Report:
    """metrics: name to number; images: name to (3, H, W) uint8; notes: lines for the user, printed once per run."""

    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def finite(self, name: str) -> "Report":
        """Return this report without the metrics that are not finite, and with a note that lists them; `name` is that
        of the evaluation."""
        lost = [key for key, value in self.metrics.items() if not math.isfinite(value)]
        if not lost:
            return self
        kept = {key: value for key, value in self.metrics.items() if key not in lost}
        return Report(kept, self.images, [*self.notes, f"{name}: left out because not finite: {', '.join(lost)}"])


class Evaluator(Protocol):
    def applies(self, view: EvalView) -> str | None:
        """Return None if this evaluation applies to the run, or the reason why it does not."""
        ...

    def __call__(self, view: EvalView) -> Report: ...


class Evaluation(Part, ABC):
    """An evaluation: it reports numbers and pictures of a run.

    If one of its `needs` is not met it is left out, and the need's `why` is printed. `applies` is called next, and
    decides by values: the number of dimensions or of samples, for example.
    """

    silent: bool = False
    """Whether it is left out without a message if it does not apply, as the default evaluations are."""

    def applies(self, view: EvalView) -> str | None:
        """Return None if this evaluation applies to the run, or the reason why it does not."""
        return None

    @abstractmethod
    def __call__(self, view: EvalView) -> Report: ...


def is_silent(evaluator: Evaluator) -> bool:
    """Return whether this evaluation is left out without a message if it does not apply."""
    return isinstance(evaluator, Evaluation) and evaluator.silent


def reason_against(evaluator: Evaluator, view: EvalView) -> str | None:
    """Return the reason why an evaluation does not apply to this run, or None if it does."""
    if isinstance(evaluator, Evaluation):
        offers = {"energy": features_of(view.energy), "dataset": features_of(view.dataset)}
        for need in unmet(evaluator.found_needs(), offers):
            return need.why or f"it needs a {need.role} with the feature '{need.feature}'"
    return evaluator.applies(view)
