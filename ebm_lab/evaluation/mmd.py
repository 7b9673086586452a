"""Maximum mean discrepancy between samples and held-out data.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

estimated by the unbiased U-statistic, which can be negative. k is the mean of Gaussian kernels whose widths are
multiples of the median distance in the data. `mmd2_p` is the p-value of a permutation test: the probability of so large
a value if samples and data had the same law. `mmd2_floor` is the value for as many training points instead of samples,
and `mmd2_floor_std` its std over permutations: a model as good as real data stays within about two of them of 0.
`mmd2_noise` is the value for the noise at which chains begin by default. MMD sees the weights of modes.

Arthur Gretton et al., A Kernel Two-Sample Test, 2012, equation 3 and section 5.
"""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report, too_few
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.statistics.permutation import labellings, p_value
from ebm_lab.statistics.prdc import median_distance

PERMUTATIONS = 200
"""Permutations of the test, which resolve p-values to 1 / 200. Not a setting, so that old runs can be evaluated."""


def mmd2(x: Tensor, y: Tensor, widths: list[float]) -> float:
    """Return the unbiased MMD^2 of (n, d) and (m, d) with the mean of Gaussian kernels exp(-r^2 / (2 w^2))."""
    n, m = len(x), len(y)
    xx, yy, xy = (torch.cdist(a, b).square() for a, b in ((x, x), (y, y), (x, y)))
    value = 0.0
    for w in widths:
        kxx, kyy, kxy = (torch.exp(-d / (2 * w * w)) for d in (xx, yy, xy))
        within = (kxx.sum() - kxx.diagonal().sum()) / (n * (n - 1)) + (kyy.sum() - kyy.diagonal().sum()) / (m * (m - 1))
        value += float(within - 2 * kxy.mean()) / len(widths)
    return value


def mean_kernel(x: Tensor, widths: list[float]) -> Tensor:
    """Return the mean of the Gaussian kernels between all pairs of x (..., n, d), (..., n, n)."""
    d = torch.cdist(x, x).square()
    return torch.stack([torch.exp(-d / (2 * w * w)) for w in widths]).mean(0)


def mmd2_of_labels(k: Tensor, a: Tensor) -> Tensor:
    """Return MMD^2 between the points where a is true and the others, for each row of a (..., P, n): (..., P).

    k (..., n, n) is the kernel between all points.
    """
    a, own = a.to(k.dtype), k.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    b, ak = 1 - a, a @ k
    n, m, aa, ab = a.sum(-1), b.sum(-1), (ak * a).sum(-1), (ak * b).sum(-1)
    bb = k.sum((-1, -2)).unsqueeze(-1) - aa - 2 * ab
    within_a, within_b = (aa - (own * a).sum(-1)) / (n * (n - 1)), (bb - (own * b).sum(-1)) / (m * (m - 1))
    return within_a + within_b - 2 * ab / (n * m)


def permutation_test(x: Tensor, y: Tensor, widths: list[float], generator: Generator) -> tuple[float, float]:
    """Return the p-value of MMD^2 between (n, d) and (m, d), and the std of MMD^2 over permutations of the points."""
    k, n, m = mean_kernel(torch.cat([x, y]), widths), len(x), len(y)
    own = (torch.arange(n + m, device=k.device) < n).unsqueeze(0)
    null = mmd2_of_labels(k, labellings(n, m, PERMUTATIONS, generator))
    return float(p_value(mmd2_of_labels(k, own)[0], null)), float(null.std())


@register("evaluation", "mmd")
class MMD(Evaluation):
    """Measure the maximum mean discrepancy between samples and held-out data.

    `widths`: widths of the kernels, in units of the median distance between data points. `points`: most held-out
    points.
    """

    metrics = (
        Metric(
            "mmd2",
            "MMD²",
            good="lower",
            meaning="squared maximum mean discrepancy between samples and held-out data, unbiased: near its floor it "
            "cannot distinguish samples from data.",
            monitors=True,
            shown=("compare", "report", "sweep"),
            rank=40,
        ),
        Metric(
            "mmd2_floor",
            "floor of MMD²",
            meaning="the same between training data and held-out data.",
            shown=("compare",),
            rank=41,
        ),
        Metric("mmd2_*"),
    )
    silent = True

    def __init__(self, *, widths: list[PositiveFloat], points: PositiveInt) -> None:
        self.widths, self.points = widths, points

    def applies(self, view: EvalView) -> str | None:
        if view.sampler is None:
            return "the run has no sampler to draw samples with"
        if lacking := too_few(view, held_out=2, train=2, samples=2):
            return f"an unbiased U-statistic {lacking}"
        equal = median_distance(subset(view.held_out, self.points)) == 0
        return "most held-out points are equal: their distances give the kernels no width" if equal else None

    def __call__(self, view: EvalView) -> Report:
        data = subset(view.held_out, self.points).flatten(1).double()
        reference = subset(view.dataset.train, view.count).flatten(1).double()
        samples = view.samples.flatten(1).double()
        widths = [w * median_distance(data) for w in self.widths]
        p, _ = permutation_test(samples, data, widths, view.generator)
        _, spread = permutation_test(reference, data, widths, view.generator)
        noise = view.from_noise().flatten(1).double()
        values = {"mmd2": mmd2(samples, data, widths), "mmd2_p": p}
        values |= {"mmd2_floor": mmd2(reference, data, widths), "mmd2_floor_std": spread}
        return Report(values | {"mmd2_noise": mmd2(noise, data, widths)})
