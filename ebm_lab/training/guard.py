"""The divergence guard: it reports when a run's numbers are no longer meaningful, and never repairs them silently.

It reads the mean metrics of each log window. With D the data's dimension, a window is in trouble if

    a metric or a parameter is nan or inf
    |gap| or loss  > growth * max(nats + D, usual)      usual: median size over the windows logged so far
    chain_distance > chain_distance * max(1, r)         r: the same distance of the noise from which chains begin
    acceptance     < acceptance, three windows in a row

The median is over the whole run, not over its last windows: exponential growth always exceeds the limit in the end,
while a polynomial drift (t / 2)^p with p < log2(growth) never does. Losses are only limited from above, because they
are meant to fall; those of further players, loss_<player>, are judged likewise. The record begins with the untrained
model's own losses and gap, whose size cannot be known beforehand.
A metric that an objective does not report is not judged.

At the end of training the model itself is checked, because a loss may not see where the model's mass went (score
matching sees only the data). Where the likelihood is known, the model is in trouble if, on the test points,

    nll > nll of the starting noise + (nats + D)

since a density that far below one which knows nothing is no model of the data. Energies trained with cold chains are
not log-densities and are not checked. A run whose model is worse on the test points than a Gaussian fitted to the
training points, or than its own base, by more than two paired standard errors, is finished, and says so.

A checkpoint is good once a whole window that began after it stayed below a third of every limit, so that the run never
returns to a state that was already diverging.
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
"""Windows in a row of low acceptance that count as trouble; in fewer, a sampler may still be adapting its step."""
CALM = 1 / 3
"""Fraction of each limit below which a window proves a checkpoint good."""
KEPT = 256
"""Most windows remembered per metric; beyond it every other one is dropped, so that they still cover the whole run."""


class Trouble(NamedTuple):
    """A sign of divergence, in words, and its kind: finite, gap, loss, chains, acceptance or likelihood."""

    seen: str
    kind: str


def complaint(metrics: Mapping[str, float]) -> str | None:
    """Return in words which of a window's mean metrics are not finite; None if all are."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    return f"{', '.join(bad[:3])}: not a finite number" if bad else None


def unfit(parameters: Iterable[Tensor]) -> str | None:
    """Return in words that a parameter is not finite; None if all are."""
    finite = torch.stack([p.detach().isfinite().all() for p in parameters])
    return None if bool(finite.all()) else "a parameter is nan or inf"


def noise_distance(dataset: Dataset) -> float:
    """Return the root mean square distance of the starting noise from the data's mean, over scale * sqrt(D)."""
    x = start_law(dataset).sample(256, stream(0, "guard", 0, dataset.train.device))
    return float((x - dataset.mean).double().square().mean().sqrt()) / max(dataset.scale, 1e-12)


def noise_nll(dataset: Dataset) -> float:
    """Return the mean negative log-likelihood of the test points under the starting noise, in nats."""
    return -float(start_law(dataset).log_prob(dataset.test).double().mean())


def judged(metrics: Mapping[str, float]) -> list[str]:
    """Return the metrics whose size is limited: the gap, the loss and the losses of further players."""
    return [n for n in ("gap", "loss") if n in metrics] + [n for n in metrics if n.startswith("loss_")]


class Guard:
    """Judge each log window, and the trained model at the end; for the settings see configs/guard/standard.yaml.

    `cold`: the chains' noise is not the one that the energy asks for, so that they sample another law and their
    acceptance is not judged. `tempered`: the chains are cold, or belong to a Metropolis sampler at a temperature other
    than 1, so that the trained model's likelihood is not judged. The record is saved in checkpoints.
    """

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
        """The rollbacks so far, as written to metrics.jsonl."""
        self.candidate: int | None = None
        """Step of the checkpoint that will be good after a whole calm window; None if there is none."""
        self.window_began = self.windows = self.low = 0
        self.stride, self.sizes = 1, {"gap": list[float](), "loss": list[float]()}

    def begin(self, metrics: Mapping[str, float]) -> None:
        """Begin the record with the metrics of the first step, which are those of the untrained model."""
        for name in judged(metrics):
            self.sizes[name] = [abs(metrics[name])] if math.isfinite(metrics[name]) else []

    def usual(self, name: str) -> float:
        """Return the usual size of the gap or a loss: the median over the run, 0 before its first window."""
        return median(sizes) if (sizes := self.sizes.get(name)) else 0.0

    def broken(self, metrics: Mapping[str, float], parameters: Iterable[Tensor]) -> list[Trouble]:
        """Return the trouble if a metric or parameter is not finite; the window need not be complete."""
        found = complaint(metrics) or unfit(parameters)
        return [Trouble(found, "finite")] if found else []

    def check_window(self, metrics: Mapping[str, float], part: float = 1.0) -> list[Trouble]:
        """Return the troubles of a window whose means are finite, with each limit multiplied by `part`."""
        if not self.enabled:
            return []
        found = []
        distance = metrics.get("chain_distance", 0.0)
        if distance > part * self.reach:
            text = f"chains left the data: chain_distance is {distance:.3g} (about 1 is usual, limit {self.reach:.3g})"
            found.append(Trouble(text, "chains"))
        for name in judged(metrics):
            size = abs(metrics[name]) if name == "gap" else metrics[name]
            limit = self.growth * max(self.floor, self.usual(name))
            if size > part * limit and not any(t.kind in ("gap", "loss") for t in found):
                usual = f"usual size {self.usual(name):.3g}, " if self.sizes.get(name) else ""
                text = f"{name} exploded: it is {metrics[name]:.3g} ({usual}limit {limit:.3g})"
                found.append(Trouble(text, "gap" if name == "gap" else "loss"))
        patience = PATIENCE if part == 1.0 else 1
        if self._is_low(metrics) and self.low + 1 >= patience:
            text = f"acceptance vanished: it is {metrics['acceptance']:.2g} (limit {self.acceptance:g})"
            found.append(Trouble(text, "acceptance"))
        return found

    def check_final(self, metrics: Mapping[str, float]) -> list[Trouble]:
        """Return the trouble of a trained model, given the metrics of its evaluation on the test points."""
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
        """Record a window without trouble that ended at `step`; return whether it proves the candidate good."""
        calm = not self.check_window(metrics, CALM)
        self.low = self.low + 1 if self._is_low(metrics) else 0
        if self.windows % self.stride == 0:
            for name in judged(metrics):
                self.sizes.setdefault(name, []).append(abs(metrics[name]))
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
