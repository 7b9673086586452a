"""Precision, recall, density and coverage: two sets of points compared by balls around each other's points.

The ball around a point of a set reaches to its k-th nearest other point of that set.

    precision   share of the fakes that lie in the ball of any real point
    recall      share of the reals that lie in the ball of any fake point
    density     1/k times the mean number of real balls that a fake lies in
    coverage    share of the real balls with any fake in them

For N reals and M fakes of one law, E[density] = 1 and E[coverage] = 1 - prod_{i=1..k} (N - i) / (N + M - i); the other
two depend on the law. The points are data or feature vectors.

Tuomas Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, 2019, equations 1 and
2, arXiv:1904.06991. Muhammad Ferjad Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020,
section 3, arXiv:2002.09797.
"""

import math

import torch
from torch import Tensor


def radii(x: Tensor, k: int) -> Tensor:
    """Return the distance from each row of x (n, d) to its k-th nearest other row, (n,); k < n."""
    return _distances(x, x).fill_diagonal_(torch.inf).kthvalue(k, 1).values


def precision_recall(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute (precision, recall), 0-d each, of real (N, d) and fake (M, d)."""
    distance = _distances(real, fake)
    in_real, in_fake = distance <= radii(real, k).unsqueeze(1), distance <= radii(fake, k)
    return in_real.any(0).double().mean(), in_fake.any(1).double().mean()


def density_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute (density, coverage), 0-d each, of real (N, d) and fake (M, d)."""
    inside = _distances(real, fake) <= radii(real, k).unsqueeze(1)
    return inside.sum(0).double().mean() / k, inside.any(1).double().mean()


def prdc(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """Compute all four numbers, by name."""
    both = (*precision_recall(real, fake, k), *density_coverage(real, fake, k))
    return dict(zip(("precision", "recall", "density", "coverage"), (float(v) for v in both), strict=True))


def expected_coverage(n: int, m: int, k: int) -> float:
    """Compute E[coverage] of n reals and m fakes of one law: 1 minus the chance that a real's k nearest neighbours are
    all real."""
    return 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))


def median_distance(x: Tensor) -> float:
    """Return the median distance between rows of x (n, *shape), a unit for kernel widths.

    It is 0 if most rows are equal or n < 2.
    """
    return float(torch.pdist(x.flatten(1).double()).median()) if len(x) > 1 else 0.0


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double())
