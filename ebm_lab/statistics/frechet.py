"""Two distances between sets of feature vectors: Frechet's, between Gaussians fitted to them, and a kernel MMD.

    d^2 = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))
    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(x, y) = (x . y / d + 1)^3

tr (C C')^(1/2) is the sum of the square roots of the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric and has no
negative ones, so that covariances of fewer points than dimensions are allowed. The Frechet distance of n samples is too
large by about 1/n on average, and by more in more dimensions, so compare only numbers of equal n. The kernel estimate
is unbiased: for two samples of one law its mean is 0, and it is negative about half of the time.

D. C. Dowson and B. V. Landau, The Frechet Distance between Multivariate Normal Distributions, 1982, equation 4.
Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6, arXiv:1706.08500.
Mikolaj Binkowski et al., Demystifying MMD GANs, 2018, section 4, arXiv:1801.01401.
"""

import torch
from torch import Generator, Tensor


def frechet_distance(m: Tensor, c: Tensor, m_: Tensor, c_: Tensor) -> float:
    """Compute d^2 between N(m, c) and N(m_, c_); means (d,), covariances (d, d), best in float64."""
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c_ @ root).clamp_min(0).sqrt().sum()
    return float((m - m_).square().sum() + c.trace() + c_.trace() - 2 * cross)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean (d,) and unbiased covariance (d, d) of the rows of x (n, d), n >= 2, in float64."""
    x = x.double()
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / (len(x) - 1)


def feature_distance(x: Tensor, y: Tensor) -> float:
    """Compute the squared Frechet distance between the Gaussians fitted to the rows of x (n, d) and y (m, d)."""
    return frechet_distance(*moments(x), *moments(y))


def polynomial_mmd2(x: Tensor, y: Tensor) -> float:
    """Compute the unbiased MMD^2 of x (n, d) and y (m, d) under k(x, y) = (x . y / d + 1)^3; n, m >= 2."""
    n, m, d = len(x), len(y), x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def subset_mmd2(x: Tensor, y: Tensor, subsets: int, size: int, generator: Generator) -> tuple[float, float]:
    """Return the (mean, standard deviation) of `polynomial_mmd2` over random subsets of `size` rows, or of all rows if
    there are fewer. The deviation is that of one subset; the subsets share points, so it does not shrink to an error of
    the mean."""
    x, y = x.double(), y.double()

    def part(z: Tensor) -> Tensor:
        return z[torch.randperm(len(z), generator=generator, device=z.device)[:size]]

    values = torch.tensor([polynomial_mmd2(part(x), part(y)) for _ in range(subsets)], dtype=torch.float64)
    return float(values.mean()), float(values.std()) if subsets > 1 else 0.0
