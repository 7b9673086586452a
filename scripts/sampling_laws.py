"""The laws on which scripts/sampling.py and scripts/sampling_blackjax.py measure samplers, and what they report.

Each statistic t of a law (coordinates along its principal axes and their squares; for the funnel the log-width v and
v^2) has a known mean and standard deviation; a law's effective samples are those of its slowest statistic
(ebm_lab/statistics/diagnostics.py), and its bias is the largest |mean t - E t| / std t, whose standard error is at
least 1 / sqrt(effective samples).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.datasets.funnel import FunnelLaw
from ebm_lab.statistics.diagnostics import effective_sample_size


class Law(NamedTuple):
    """energy (B, d) -> (B,); draw(n, generator); statistics (..., d) -> (..., S) of mean 0 and std 1 under the law."""

    energy: Callable[[Tensor], Tensor]
    draw: Callable[[int, Generator], Tensor]
    statistics: Callable[[Tensor], Tensor]


class Cell(NamedTuple):
    """ess: of all chains; gradients: of one chain; bias: in standard deviations of the worst statistic."""

    ess: float
    chains: float
    gradients: float
    bias: float
    step_size: float
    acceptance: float


def summary(law: Law, draws: list[Tensor], gradients: int, step_size: float, acceptance: list[float]) -> Cell:
    """Summarise chains by their draws, one tensor (chains, d) for each time, and their acceptance at each time."""
    values = law.statistics(torch.stack(draws, 1)).permute(2, 0, 1)
    ess, bias = float(effective_sample_size(values).min()), float(values.mean((1, 2)).abs().max())
    return Cell(ess, len(draws[0]), gradients, bias, step_size, sum(acceptance) / len(acceptance))


def axes(condition: float, d: int) -> tuple[Tensor, Tensor]:
    """Return a fixed random rotation (d, d), and d standard deviations from condition^-1/2 to 1."""
    own = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(d, d, generator=own, dtype=torch.float64))[0]
    return q, condition ** torch.linspace(-0.5, 0, d, dtype=torch.float64)


def gaussian(condition: float, d: int = 10) -> Law:
    """Return N(0, Q diag(std^2) Q') with the rotation Q and the standard deviations of `axes`."""
    q, std = axes(condition, d)

    def moments(x: Tensor) -> Tensor:
        y = x @ q / std
        return torch.cat([y, (y**2 - 1) / 2**0.5], -1)

    return Law(
        lambda x: 0.5 * (x @ q / std).square().sum(1),
        lambda n, g: (std * torch.randn(n, d, generator=g, dtype=torch.float64)) @ q.T,
        moments,
    )


def funnel(d: int = 5, std: float = 1.5) -> Law:
    law = FunnelLaw(d, std, 0.0)

    def moments(x: Tensor) -> Tensor:
        v = x[..., :1] / std
        return torch.cat([v, (v**2 - 1) / 2**0.5], -1)

    return Law(lambda x: -law.log_prob(x), law.sample, moments)


def two_modes(apart: float = 4.0, weight: float = 0.3) -> Law:
    """Return weight N(-apart / 2, I) + (1 - weight) N(apart / 2, I) in the plane, apart along the first axis."""
    m, shift = apart / 2, (1 - 2 * weight) * apart / 2
    spread = (1 + m**2 - shift**2) ** 0.5
    square = (2 + 4 * m**2) ** 0.5  # std of x_1^2, whose law is that of (m + z)^2

    def energy(x: Tensor) -> Tensor:
        logs = [math.log(w) - 0.5 * (x[:, 0] - c) ** 2 for w, c in ((weight, -m), (1 - weight, m))]
        return 0.5 * x[:, 1] ** 2 - torch.logaddexp(*logs)

    def draw(n: int, g: Generator) -> Tensor:
        x = torch.randn(n, 2, generator=g, dtype=torch.float64)
        side = torch.where(torch.rand(n, generator=g) < weight, -m, m)
        return x + torch.stack([side, torch.zeros(n)], 1)

    def moments(x: Tensor) -> Tensor:
        return torch.stack([(x[..., 0] - shift) / spread, (x[..., 0] ** 2 - 1 - m**2) / square], -1)

    return Law(energy, draw, moments)


LAWS = {
    "Gaussian, condition 1": gaussian(1),
    "condition 100": gaussian(100),
    "condition 10,000": gaussian(10_000),
    "funnel": funnel(),
    "two modes": two_modes(),
}
