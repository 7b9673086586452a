"""Maximum mean discrepancy between samples and held-out data.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

by the unbiased U-statistic, which is below 0 at times, with k the mean of Gaussian kernels whose widths are multiples
of the median distance in the data. `mmd2_p` is the p-value of a permutation test: the chance of a value as large if
samples and data were of one law. The floor is the same number between real and real, as many training points in the
samples' place; `mmd2_floor_std` is its std over permutations, so that a model as good as real data stays within some
two of them of 0. `mmd2_noise` is the value of noise, at which chains begin unless the method has a start of its own.
MMD sees the weights of modes.

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
"""A p-value is known to 1 in 200. No setting: runs that were trained before there was a test can be evaluated too."""


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


def mean_kernel(x: Tensor, widths: list[float]) -> Tensor:
    """The mean of the Gaussian kernels between all pairs of x (..., n, d), (..., n, n)."""
    d = torch.cdist(x, x).square()
    return torch.stack([torch.exp(-d / (2 * w * w)) for w in widths]).mean(0)


def mmd2_of_labels(k: Tensor, a: Tensor) -> Tensor:
    """MMD^2 between the points where a is true and the others, for each row of a (..., P, n), (..., P): by the kernel
    k (..., n, n) between all points."""
    a, own = a.to(k.dtype), k.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    b, ak = 1 - a, a @ k
    n, m, aa, ab = a.sum(-1), b.sum(-1), (ak * a).sum(-1), (ak * b).sum(-1)
    bb = k.sum((-1, -2)).unsqueeze(-1) - aa - 2 * ab
    within_a, within_b = (aa - (own * a).sum(-1)) / (n * (n - 1)), (bb - (own * b).sum(-1)) / (m * (m - 1))
    return within_a + within_b - 2 * ab / (n * m)


def permutation_test(x: Tensor, y: Tensor, widths: list[float], generator: Generator) -> tuple[float, float]:
    """(p, std): p-value of MMD^2 between (n, d) and (m, d), and the std of MMD^2 over permutations of who is who."""
    k, n, m = mean_kernel(torch.cat([x, y]), widths), len(x), len(y)
    own = (torch.arange(n + m, device=k.device) < n).unsqueeze(0)
    null = mmd2_of_labels(k, labellings(n, m, PERMUTATIONS, generator))
    return float(p_value(mmd2_of_labels(k, own)[0], null)), float(null.std())


@register("evaluation", "mmd")
class MMD(Evaluation):
    """`widths`: in units of the median distance between data points; `points`: how many held-out points at most."""

    metrics = (
        Metric(
            "mmd2",
            "MMD²",
            good="lower",
            meaning="maximum mean discrepancy between samples and held-out data, squared, unbiased: about its floor "
            "is as good as it can tell.",
            monitors=True,
            shown=("compare", "report", "sweep"),
            rank=40,
        ),
        Metric(
            "mmd2_floor",
            "floor of MMD²",
            meaning="the same between two halves of the real data.",
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
