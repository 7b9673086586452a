"""Convergence of Markov chains, and the number of independent draws that they equal.

    W = mean of the chains' variances,  B/n = variance of their means,  var+ = (n - 1)/n W + B/n
    R-hat = sqrt(var+ / W)                          1 if all chains have one law, larger if they differ
    rho_t = 1 - (W - mean_m acov_m(t)) / var+       autocorrelation at lag t; larger if the chains differ
    ESS = m n / tau,    tau = -1 + 2 sum_k P_k,     P_k = rho_2k + rho_2k+1

for m chains with n draws each. The sum ends before the first negative P_k, and each P_k is replaced by the one before
it if that is smaller (Geyer's initial monotone sequence), because the P_k of a reversible chain are positive and
decrease; the sum over all lags would be mostly noise. R-hat near 1 is necessary and not sufficient: chains that all
miss the same mode agree.

For an autoregressive chain x' = rho x + noise, rho_t = rho^t and ESS = m n (1 - rho) / (1 + rho).

Aki Vehtari, Andrew Gelman, Daniel Simpson, Bob Carpenter and Paul-Christian Buerkner, Rank-Normalization, Folding, and
Localization: An Improved R-hat for Assessing Convergence of MCMC, 2021, equations 1 to 4, 10, 13, 14, arXiv:1903.08008.
Charles J. Geyer, Practical Markov Chain Monte Carlo, 1992, section 3.3.
"""

import torch
from torch import Tensor


def between_and_within(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (B/n, W) of chains (..., m, n), each (...,)."""
    return x.mean(-1).var(-1), x.var(-1).mean(-1)


def split(x: Tensor) -> Tensor:
    """Split chains (..., m, n) into halves, (..., 2m, n // 2), so that the halves of a drifting chain disagree."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], x[..., -half:]], -2)


def rank_normalised(x: Tensor) -> Tensor:
    """Replace the draws of chains (..., m, n) by the normal quantiles of their ranks among all draws, so that heavy
    tails don't matter."""
    flat = x.flatten(-2)
    ordered = flat.sort(-1).values.contiguous()
    below, upto = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    rank = (below + upto + 1).to(x) / 2  # equal draws share the mean of their ranks, 1 to S
    return torch.special.ndtri((rank - 3 / 8) / (flat.shape[-1] + 1 / 4)).view_as(x)


def plain_rhat(x: Tensor) -> Tensor:
    """Compute sqrt(var+ / W) of chains (..., m, n), (...,)."""
    n, (between, within) = x.shape[-1], between_and_within(x)
    return ((n - 1) / n + between / within).sqrt()


def rhat(x: Tensor) -> Tensor:
    """Compute the rank-normalised split R-hat of chains (..., m, n), (...,).

    It is the larger of the R-hat of the draws, which detects different locations, and that of their distances from the
    median, which detects different widths.
    """
    halves = split(x)
    folded = (halves - halves.flatten(-2).median(-1).values[..., None, None]).abs()
    return torch.maximum(plain_rhat(rank_normalised(halves)), plain_rhat(rank_normalised(folded)))


def autocovariance(x: Tensor) -> Tensor:
    """Compute acov(t) = 1/n sum_i (x_i - mean)(x_(i+t) - mean), lags t along the last axis, (..., n) -> (..., n)."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x - x.mean(-1, keepdim=True), n=2 * n)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n)[..., :n] / n


def autocorrelation(x: Tensor) -> Tensor:
    """Compute rho_t of chains (..., m, n), (..., n)."""
    n, (between, within) = x.shape[-1], between_and_within(x)
    var_plus = (n - 1) / n * within + between
    return 1 - (within[..., None] - autocovariance(x).mean(-2)) / var_plus[..., None]


def correlation_time(rho: Tensor) -> Tensor:
    """Compute tau = -1 + 2 sum P_k over Geyer's initial monotone sequence, (..., n) -> (...,), in draws, with rho_0 set
    to 1."""
    rho = torch.cat([torch.ones_like(rho[..., :1]), rho[..., 1 : rho.shape[-1] // 2 * 2]], -1)
    pairs = rho.unflatten(-1, (-1, 2)).sum(-1)
    positive = (pairs > 0).long().cumprod(-1)
    return -1 + 2 * (pairs.cummin(-1).values * positive).sum(-1)


def effective_sample_size(x: Tensor) -> Tensor:
    """Compute how many independent draws would give the mean over chains (..., m, n) the same variance, (...,); nan
    where nothing moves.

    Chains are split, as for R-hat. Alternating chains equal more than m n draws; the result is capped at
    m n log10(m n), since so few draws can't support a larger one.
    """
    halves = split(x.double())
    draws = torch.tensor(float(halves.shape[-2] * halves.shape[-1]))
    return draws / correlation_time(autocorrelation(halves)).clamp_min(1 / draws.log10())
