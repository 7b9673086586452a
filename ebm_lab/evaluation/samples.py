"""Samples drawn from noise, or from the method's own start: their energies beside the data's, and their pictures.

`energy_gap` is mean E(data) - mean E(samples). It is near 0 if the data are likely under the model and the sampler
finds states as likely; far below 0, the chains do not reach states as likely as the data. A score network has no
energies.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.functional import evaluate
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register


@register("evaluation", "samples")
class Samples(Evaluation):
    """Report the energies of samples and draw them.

    `shown`: samples in the grid. `frames`: frames of each chain in the picture of chains.
    """

    metrics = (
        Metric("e_data", unit="nats"),
        Metric("e_noise", unit="nats"),
        Metric("e_samples", unit="nats"),
        Metric("energy_gap", unit="nats"),
        Metric("sample_acceptance"),
    )
    silent = True

    def __init__(self, *, shown: PositiveInt, frames: PositiveInt) -> None:
        self.shown, self.frames = shown, frames

    def applies(self, view: EvalView) -> str | None:
        return None if view.sampler is not None else "the run has no sampler to draw samples with"

    @torch.no_grad()
    def __call__(self, view: EvalView) -> Report:
        samples, report = view.samples, Report()
        if view.has("energy"):
            drawn = {"data": subset(view.held_out, 4096), "samples": samples, "noise": view.from_noise()}
            report.metrics = {f"e_{name}": float(evaluate(view.energy, x).mean()) for name, x in drawn.items()}
            report.metrics["energy_gap"] = report.metrics["e_data"] - report.metrics["e_samples"]
        if "acceptance" in view.chain_metrics:
            report.metrics["sample_acceptance"] = float(view.chain_metrics["acceptance"])
        bounds = view.dataset.bounds
        if bounds is not None:
            report.images["samples"] = pictures.grid(samples[: self.shown], bounds)
            report.images["chains"] = self._strip(view, bounds)
        return report

    def _strip(self, view: EvalView, bounds: tuple[float, float]) -> Tensor:
        """Draw chains as rows, from noise (left) to sample (right), with frames closer together at first."""
        frames = [x for _, x in spread(view.trajectory, self.frames)]
        rows = torch.stack([x[:8] for x in frames], 1).flatten(0, 1)
        return pictures.grid(rows, bounds, columns=len(frames))


def spread(trajectory: list, frames: int) -> list:
    """Return at most `frames` entries of `trajectory`, geometrically spaced, including the first and the last."""
    last = len(trajectory) - 1
    picks = (
        {0, last} | {round(last ** (i / (frames - 2))) for i in range(frames - 1)} if last and frames > 2 else {0, last}
    )
    return [trajectory[i] for i in sorted(picks)]
