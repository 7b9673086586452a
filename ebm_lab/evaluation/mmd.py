"""Maximum mean discrepancy between samples and held-out data.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

by the unbiased U-statistic, with k the mean of Gaussian kernels whose widths are multiples of the median distance in
the data. The floor is the same number between two halves of real data: a model can't be expected below it.

Arthur Gretton et al., A Kernel Two-Sample Test, 2012, equation 3.
"""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.registry import register
from ebm_lab.core.view import EvalView, Report


def mmd2(x: Tensor, y: Tensor, widths: list[float]) -> float:
    """Unbiased MMD^2 of (n, d) and (m, d) under the mean of Gaussian kernels exp(-r^2 / (2 w^2))."""
    n, m = len(x), len(y)
    xx, yy, xy = (torch.cdist(a, b).square() for a, b in ((x, x), (y, y), (x, y)))
    value = 0.0
    for w in widths:
        kxx, kyy, kxy = (torch.exp(-d / (2 * w * w)) for d in (xx, yy, xy))
        within = (kxx.sum() - kxx.diagonal().sum()) / (n * (n - 1)) + (kyy.sum() - kyy.diagonal().sum()) / (m * (m - 1))
        value += float(within - 2 * kxy.mean()) / len(widths)
    return value


@register("evaluation", "mmd")
class MMD:
    """`widths`: in units of the median distance between data points; `points`: how many held-out points at most."""

    def __init__(self, *, widths: list[PositiveFloat], points: PositiveInt) -> None:
        self.widths, self.points = widths, points

    def applies(self, view: EvalView) -> str | None:
        return None if view.sampler is not None else "the run has no sampler to draw samples with"

    def __call__(self, view: EvalView) -> Report:
        data = view.held_out.flatten(1)[: self.points].double()
        reference = view.dataset.train.flatten(1)[: view.count].double()
        samples = view.samples.flatten(1).double()
        widths = [w * float(torch.pdist(data).median()) for w in self.widths]
        return Report({"mmd2": mmd2(samples, data, widths), "mmd2_floor": mmd2(reference, data, widths)})
