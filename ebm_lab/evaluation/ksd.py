"""Kernel Stein discrepancy of held-out data and of samples against the model's score (statistics/stein.py): no log Z.

    ksd2_data: could the held-out data come from the model?    ksd2_samples: has the sampler reached the model?

KSD^2 is the mean over widths c of the unbiased U-statistic with an inverse multiquadric kernel; the widths are
multiples of the median distance between training points. It has the unit of a squared score, and models can be compared
only at the same widths. `_floor` is the 95th percentile of its wild bootstrap, which a perfect model exceeds once in 20
times.

    z = max_c KSD^2_c / std_c,    std_c of the bootstrap at width c

is the discrepancy in standard deviations at the width that shows most: narrow kernels see the shape of narrow modes,
wide ones see where the mass is. `_p` is the probability of so large a z if the points came from the model, by the same
bootstrap, which is accurate for many points. `ksd2_noise` is the value for the noise at which chains begin by default,
that is for a sampler that does nothing.

Like the score, KSD hardly sees the weights of distant modes: a p-value far from 0 does not show that they are right. It
loses power as the dimension grows. Samples drawn at temperature T are compared with exp(-E / T). A model of many levels
is taken at its lowest level; samplers that end with a denoising step have less blur than that level.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report, too_few
from ebm_lab.core.features import Need
from ebm_lab.core.functional import frozen, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.models.levels import data_score
from ebm_lab.statistics.permutation import p_value, random_signs
from ebm_lab.statistics.prdc import median_distance
from ebm_lab.statistics.stein import bootstrap_std, imq_stein_kernel, u_statistic, wild_bootstrap


def stein_kernels(x: Tensor, s: Tensor, widths: list[float]) -> Tensor:
    """Return the Stein kernel h between x (..., n, d) with scores s, for each width: (..., widths, n, n)."""
    return torch.stack([imq_stein_kernel(x, s, c) for c in widths], -3)


def stein_test(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (KSD^2, its floor, z, p), (...) each, from h (..., widths, n, n) and independent signs w (..., B, n)."""
    value, null, std = u_statistic(h), wild_bootstrap(h, w.unsqueeze(-3)), bootstrap_std(h)
    z, null_z = (value / std).amax(-1), (null / std.unsqueeze(-1)).amax(-2)
    return value.mean(-1), null.mean(-2).quantile(0.95, -1), z, p_value(z, null_z)


@register("evaluation", "ksd")
class KSD(Evaluation):
    """Test held-out data and samples against the model's score.

    `widths`: widths of the kernels, in units of the median distance between training points. `points`: most held-out
    points, and most samples. `bootstraps`: draws of the wild bootstrap.
    """

    metrics = (Metric("ksd2_*"),)
    needs = (Need("dataset", "continuous", why="discrete data have no density, and so no score for Stein's identity"),)

    def __init__(
        self,
        *,
        widths: Annotated[list[PositiveFloat], Field(min_length=1)],
        points: PositiveInt,
        bootstraps: PositiveInt,
    ) -> None:
        self.widths, self.points, self.bootstraps = widths, points, bootstraps

    def applies(self, view: EvalView) -> str | None:
        if lacking := too_few(view, held_out=2, train=2):
            return f"an unbiased U-statistic {lacking}"
        equal = median_distance(subset(view.dataset.train, self.points)) == 0
        return "most training points are equal: their distances give the kernels no width" if equal else None

    def __call__(self, view: EvalView) -> Report:
        unit = median_distance(subset(view.dataset.train, self.points))
        widths = [w * unit for w in self.widths]
        metrics = self._test(view, "ksd2_data", subset(view.held_out, self.points), 1.0, widths)
        if view.sampler is not None and view.count > 1:
            metrics |= self._test(view, "ksd2_samples", view.samples, view.temperature, widths)
            noise = view.from_noise()[: self.points]
            metrics["ksd2_noise"] = float(u_statistic(self._h(view, noise, view.temperature, widths)).mean())
        return Report(
            metrics,
            notes=["ksd2 hardly sees the weights of distant modes, like every measure that uses only the score"],
        )

    def _test(self, view: EvalView, name: str, x: Tensor, temperature: float, widths: list[float]) -> dict[str, float]:
        h = self._h(view, x[: self.points], temperature, widths)
        found = stein_test(h, random_signs(h.shape[-1], self.bootstraps, view.generator))
        return {name + end: float(v) for end, v in zip(("", "_floor", "_z", "_p"), found, strict=True)}

    def _h(self, view: EvalView, x: Tensor, temperature: float, widths: list[float]) -> Tensor:
        with frozen(view.energy):
            s = in_parts(partial(data_score, view.energy), x, 1000) / temperature
        return stein_kernels(x.flatten(1).double(), s.flatten(1).double(), widths)
