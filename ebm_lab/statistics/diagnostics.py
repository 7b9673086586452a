"""Have Markov chains converged, and how many independent draws are they worth?

    W = mean of the chains' variances,  B/n = variance of their means,  var+ = (n - 1)/n W + B/n
    R-hat = sqrt(var+ / W)                          1 where all chains have one law, above where they have not
    rho_t = 1 - (W - mean_m acov_m(t)) / var+       autocorrelation at lag t; that the chains differ counts too
    ESS = m n / tau,    tau = -1 + 2 sum_k P_k,     P_k = rho_2k + rho_2k+1

of m chains with n draws each. Noise would make the sum over all lags useless: it ends before the first negative P_k,
and each P_k counts no more than the one before (Geyer's initial monotone sequence), for those of a reversible chain are
positive and fall. R-hat near 1 is necessary and not sufficient: chains that all miss the same mode agree.

For an autoregressive chain x' = rho x + noise, rho_t = rho^t and ESS = m n (1 - rho) / (1 + rho).

Aki Vehtari, Andrew Gelman, Daniel Simpson, Bob Carpenter and Paul-Christian Buerkner, Rank-Normalization, Folding, and
Localization: An Improved R-hat for Assessing Convergence of MCMC, 2021, equations 1 to 4, 10, 13, 14, arXiv:1903.08008.
Charles J. Geyer, Practical Markov Chain Monte Carlo, 1992, section 3.3.
"""

import torch
from torch import Tensor


def between_and_within(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B/n, W) of chains (..., m, n), each (...,)."""
    return x.mean(-1).var(-1), x.var(-1).mean(-1)


def split(x: Tensor) -> Tensor:
    """Chains (..., m, n) as their halves, (..., 2m, n // 2): a chain that drifts disagrees with itself."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], x[..., -half:]], -2)


def rank_normalised(x: Tensor) -> Tensor:
    """Chains (..., m, n) as the normal quantiles of their ranks among all draws, so that tails don't matter."""
    flat = x.flatten(-2)
    ordered = flat.sort(-1).values.contiguous()
    below, upto = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    rank = (below + upto + 1).to(x) / 2  # equal draws share the mean of their ranks, 1 to S
    return torch.special.ndtri((rank - 3 / 8) / (flat.shape[-1] + 1 / 4)).view_as(x)


def plain_rhat(x: Tensor) -> Tensor:
    """sqrt(var+ / W) of chains (..., m, n), (...,)."""
    n, (between, within) = x.shape[-1], between_and_within(x)
    return ((n - 1) / n + between / within).sqrt()


def rhat(x: Tensor) -> Tensor:
    """Rank-normalised split R-hat of chains (..., m, n), (...,): the larger of that of the draws, which sees places
    that differ, and that of their distances from the median, which sees widths."""
    halves = split(x)
    folded = (halves - halves.flatten(-2).median(-1).values[..., None, None]).abs()
    return torch.maximum(plain_rhat(rank_normalised(halves)), plain_rhat(rank_normalised(folded)))


def autocovariance(x: Tensor) -> Tensor:
    """acov(t) = 1/n sum_i (x_i - mean)(x_(i+t) - mean), lags t along the last axis, (..., n) -> (..., n)."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x - x.mean(-1, keepdim=True), n=2 * n)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n)[..., :n] / n


def autocorrelation(x: Tensor) -> Tensor:
    """rho_t of chains (..., m, n), (..., n)."""
    n, (between, within) = x.shape[-1], between_and_within(x)
    var_plus = (n - 1) / n * within + between
    return 1 - (within[..., None] - autocovariance(x).mean(-2)) / var_plus[..., None]


def correlation_time(rho: Tensor) -> Tensor:
    """tau = -1 + 2 sum P_k over Geyer's initial monotone sequence, (..., n) -> (...,), in draws; rho_0 counts as 1."""
    rho = torch.cat([torch.ones_like(rho[..., :1]), rho[..., 1 : rho.shape[-1] // 2 * 2]], -1)
    pairs = rho.unflatten(-1, (-1, 2)).sum(-1)
    positive = (pairs > 0).long().cumprod(-1)
    return -1 + 2 * (pairs.cummin(-1).values * positive).sum(-1)


def effective_sample_size(x: Tensor) -> Tensor:
    """How many independent draws the mean over chains (..., m, n) is worth, (...,); nan where nothing moves.

    Chains are split, as for R-hat. Alternating chains are worth more than m n draws; more than m n log10(m n) is not
    to be believed from so few.
    """
    halves = split(x.double())
    draws = torch.tensor(float(halves.shape[-2] * halves.shape[-1]))
    return draws / correlation_time(autocorrelation(halves)).clamp_min(1 / draws.log10())
