"""Samples drawn from noise, or from the method's own start: their energies beside the data's, and their pictures.

Images are drawn as they are, lattices of categories as grey levels, and bits that stand for points of the plane as
these points beside held-out ones.

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
from ebm_lab.evaluation._shown import as_images, clouds, in_plane


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
        if (shown := as_images(samples[: self.shown], view.dataset)) is not None:
            report.images["samples"] = pictures.grid(*shown)
            report.images["chains"] = self._strip(view)
        if (points := in_plane(samples, view.dataset)) is not None:
            real = in_plane(view.held_out, view.dataset)
            assert real is not None, "they are points of the same data"
            report.images["samples"] = clouds({"held-out data": real, "samples": points})
        return report

    def _strip(self, view: EvalView) -> Tensor:
        """Draw chains as rows, from noise (left) to sample (right), with frames closer together at first."""
        frames = [x for _, x in spread(view.trajectory, self.frames)]
        shown = as_images(torch.stack([x[:8] for x in frames], 1).flatten(0, 1), view.dataset)
        assert shown is not None, "the samples are images"
        return pictures.grid(*shown, columns=len(frames))


def spread(trajectory: list, frames: int) -> list:
    """Return at most `frames` entries of `trajectory`, geometrically spaced, including the first and the last."""
    last = len(trajectory) - 1
    picks = (
        {0, last} | {round(last ** (i / (frames - 2))) for i in range(frames - 1)} if last and frames > 2 else {0, last}
    )
    return [trajectory[i] for i in sorted(picks)]
