"""The divergence guard: says when a run's numbers no longer mean anything, and never mends them in silence.

It reads the mean metrics of each log window, m. With D the data's dimension, a window is in trouble when

    a metric or a parameter is nan or inf
    |gap| or loss  > growth * max(nats + D, usual)      usual: median size over the windows that the run has logged
    chain_distance > chain_distance * max(1, r)         r: the same distance of the noise that chains begin from
    acceptance     < acceptance, three windows in a row

The median is over the whole run, not over its last windows: whatever grows exponentially outruns it in the end, and a
polynomial drift (t / 2)^p never does, for p < log2(growth). Losses are judged upward only, since downward is where
they are meant to go. The record opens with the untrained model's own loss and gap, for no one can know beforehand how
large they are. A metric that an objective does not report is not judged.

At the end the model itself is weighed, for a loss may not see where its mass went (score matching sees the data alone):

    nll > (nats + D) above that of the starting noise, on the test points, where the likelihood is known

for a density so far below one that knows nothing is no model. Energies learnt with cold chains are no log-densities
and are not weighed. A run whose model is worse on the test points than a Gaussian fitted to the training points, or
than its own base, by more than two paired standard errors, has finished, and says so.

A checkpoint is good once a whole window that began after it stayed below a third of every limit: a state that already
slides is not worth going back to.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.distributions.start import start_law

PATIENCE = 3
"""Windows in a row of low acceptance: a sampler may still be adapting its step."""
CALM = 1 / 3
"""The part of each limit below which a window proves a checkpoint."""
KEPT = 256
"""Windows remembered per metric; beyond, every other one is dropped, so that they stay spread over the whole run."""


class Trouble(NamedTuple):
    """What was seen, in words, and its kind: 'finite', 'gap', 'loss', 'chains', 'acceptance' or
    'likelihood'."""

    seen: str
    kind: str


def complaint(metrics: Mapping[str, float]) -> str | None:
    """What is not finite in a window's mean metrics, in words; None if all is."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    return f"{', '.join(bad[:3])}: not a finite number" if bad else None


def unfit(parameters: Iterable[Tensor]) -> str | None:
    """What is wrong with the parameters; None if all are finite."""
    finite = torch.stack([p.detach().isfinite().all() for p in parameters])
    return None if bool(finite.all()) else "a parameter is nan or inf"


def noise_distance(dataset: Dataset) -> float:
    """Root mean square distance of the starting noise from the data's mean, over scale * sqrt(D)."""
    x = start_law(dataset).sample(256, stream(0, "guard", 0, dataset.train.device))
    return float((x - dataset.mean).double().square().mean().sqrt()) / max(dataset.scale, 1e-12)


def noise_nll(dataset: Dataset) -> float:
    """Mean negative log-likelihood of the test points under the starting noise, nats: a model that knows nothing."""
    return -float(start_law(dataset).log_prob(dataset.test).double().mean())


class Guard:
    """Settings as in configs/guard/standard.yaml. `watch` judges, `learn` remembers; what it remembers travels in the
    checkpoint. `cold`: chains of another noise than the energy asks for, whose acceptance is that of another law, from
    which short runs may well stay far; `tempered`: those, and chains of a Metropolis sampler at another temperature
    than 1."""

    def __init__(
        self,
        dataset: Dataset,
        cold: bool,
        tempered: bool,
        *,
        enabled: bool,
        rollbacks: NonNegativeInt,
        growth: Annotated[float, Field(gt=1)] | None,
        nats: PositiveFloat,
        chain_distance: PositiveFloat | None,
        acceptance: Annotated[float, Field(gt=0, lt=1)] | None,
    ) -> None:
        self.enabled, self.rollbacks = enabled, rollbacks if enabled else 0
        self.growth, self.floor = growth or math.inf, nats + dataset.mean.numel()
        self.reach = (chain_distance or math.inf) * max(1.0, noise_distance(dataset))
        self.dataset, self.tempered = dataset, tempered
        self.acceptance = 0.0 if acceptance is None or cold else acceptance
        self.events: list[dict[str, Any]] = []
        """The rollbacks so far, as they stand in metrics.jsonl."""
        self.candidate: int | None = None
        """The step of a checkpoint that waits for a whole clean window."""
        self.window_began = self.windows = self.low = 0
        self.stride, self.sizes = 1, {"gap": list[float](), "loss": list[float]()}

    def begin(self, metrics: Mapping[str, float]) -> None:
        """Open the record with the metrics of the first step, which are those of the untrained model."""
        for name in self.sizes.keys() & metrics.keys():
            self.sizes[name] = [abs(metrics[name])] if math.isfinite(metrics[name]) else []

    def usual(self, name: str) -> float:
        """The usual size of the gap or the loss: the median over the run; 0 before its first window."""
        return median(self.sizes[name]) if self.sizes[name] else 0.0

    def broken(self, metrics: Mapping[str, float], parameters: Iterable[Tensor]) -> list[Trouble]:
        """Only what is not finite; judges part of a window as well as a whole one."""
        found = complaint(metrics) or unfit(parameters)
        return [Trouble(found, "finite")] if found else []

    def check_window(self, metrics: Mapping[str, float], part: float = 1.0) -> list[Trouble]:
        """The troubles of a window whose means are finite, each limit cut to `part` of it."""
        if not self.enabled:
            return []
        found = []
        distance = metrics.get("chain_distance", 0.0)
        if distance > part * self.reach:
            text = f"chains left the data: chain_distance is {distance:.3g} (about 1 is usual, limit {self.reach:.3g})"
            found.append(Trouble(text, "chains"))
        for name in ("gap", "loss"):
            size = abs(metrics.get(name, 0.0)) if name == "gap" else metrics.get(name, 0.0)
            limit = self.growth * max(self.floor, self.usual(name))
            if size > part * limit and not any(t.kind == "gap" for t in found):
                usual = f"usual size {self.usual(name):.3g}, " if self.sizes[name] else ""
                found.append(Trouble(f"{name} exploded: it is {metrics[name]:.3g} ({usual}limit {limit:.3g})", name))
        patience = PATIENCE if part == 1.0 else 1
        if self._is_low(metrics) and self.low + 1 >= patience:
            text = f"acceptance vanished: it is {metrics['acceptance']:.2g} (limit {self.acceptance:g})"
            found.append(Trouble(text, "acceptance"))
        return found

    def check_final(self, metrics: Mapping[str, float]) -> list[Trouble]:
        """The trouble of a trained model whose evaluation on the test points reports these metrics."""
        nll = metrics.get("nll", metrics.get("nll_uncertain"))
        if not self.enabled or self.tempered or nll is None:
            return []
        noise = noise_nll(self.dataset)
        if nll <= noise + self.floor:
            return []
        text = f"nll is {nll:.3g} (the starting noise has {noise:.3g}, limit {noise + self.floor:.3g})"
        return [Trouble(f"the model lost the data: {text}", "likelihood")]

    def warnings_final(self, metrics: Mapping[str, float]) -> list[str]:
        """Lines on a trained model that is worse on the test points than a trivial one, by more than two paired
        standard errors. The run has finished all the same."""
        if not self.enabled or self.tempered:
            return []
        lines = []
        for law, name in (("gaussian", "a fitted Gaussian"), ("base", "its own base")):
            found = next((p for p in ("", "ais_") if f"{p}nll_above_{law}" in metrics), None)
            if found is None:
                continue
            above, se = metrics[f"{found}nll_above_{law}"], metrics[f"{found}nll_above_{law}_se"]
            if above > 2 * se:
                lines.append(f"the model is worse than {name} by {above:.3g} nats on the test points (+- {se:.2g})")
        return lines

    def record_window(self, metrics: Mapping[str, float], step: int) -> bool:
        """Take a window without trouble, ended at `step`, into the record; True if it proves the candidate good."""
        calm = not self.check_window(metrics, CALM)
        self.low = self.low + 1 if self._is_low(metrics) else 0
        if self.windows % self.stride == 0:
            for name in self.sizes.keys() & metrics.keys():
                self.sizes[name].append(abs(metrics[name]))
        self.windows += 1
        if max(map(len, self.sizes.values())) > KEPT:
            self.stride *= 2
            self.sizes = {name: sizes[::2] for name, sizes in self.sizes.items()}
        proven = calm and self.candidate is not None and self.candidate <= self.window_began
        self.window_began = step
        if proven:
            self.candidate = None
        return proven

    def _is_low(self, metrics: Mapping[str, float]) -> bool:
        return metrics.get("acceptance", 1.0) < self.acceptance

    def state_dict(self) -> dict[str, Any]:
        names = ("events", "candidate", "window_began", "windows", "low", "stride", "sizes")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
