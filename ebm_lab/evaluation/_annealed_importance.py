"""Annealed importance sampling: the normalising constant of an energy in any dimension.

    p_b(x) ~ p_0(x)^(1 - b) exp(-b E(x)),    0 = b_0 < b_1 < ... < b_T = 1,    K_t leaves p_{b_t} invariant
    forward:  x_0 ~ p_0;  log w = sum_{t=1}^T (b_t - b_{t-1}) u(x_{t-1}),    x_t ~ K_t(x_{t-1})
    reverse:  x_T ~ p_1;  the same sum with u(x_t), and x_{t-1} ~ K_{t-1}(x_t) after the increment, not before
    u(x) = -E(x) - log p_0(x)

On another path from p_0 to exp(-E), the increments are E_{t-1}(x) - E_t(x) for its energies E_t, E_0 = -log p_0. If
the kernels leave p_b exactly invariant, E[w] = Z forward and E[1 / w] = 1 / Z in reverse, for any number of
temperatures. By Jensen's inequality the forward log-mean is on average below log Z, and the reverse one above it if its
starts are exact samples. For chains at equilibrium, Var log w is about length^2 / T, where the thermodynamic length is
the integral of std_{p_b}(u) db: temperatures at equal steps in it are the best (_annealed_path.py).

Radford M. Neal, Annealed Importance Sampling, 2001, section 2, arXiv:physics/9803008.
Roger B. Grosse, Zoubin Ghahramani and Ryan P. Adams, Sandwiching the marginal likelihood using bidirectional Monte
Carlo, 2015, arXiv:1511.02543 (reverse).
Andrew Gelman and Xiao-Li Meng, Simulating Normalizing Constants, 1998 (the best path's speed).
Bradley Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebm_lab.core.derived import Coordinates
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.distributions.elementary import Distribution, IsotropicGaussian

Move = Callable[[Tensor, int], Tensor]
"""move(x, t) moves states x (B, *shape) by a kernel that leaves p_{b_t} invariant."""
Rise = Callable[[Tensor, float, float], Tensor]
"""rise(x, a, b) = log p_b(x) - log p_a(x), unnormalised, (B, *shape) -> (B,), in float64."""


class Family(Protocol):
    """A path from base to model, an energy for each b."""

    def __call__(self, energy: Any, base: Any, b: float, /) -> nn.Module:
        """Return the energy of p_b."""
        ...

    def rise(self, energy: Any, base: Any, x: Tensor, a: float, b: float, /) -> Tensor:
        """Return log p_b(x) - log p_a(x), unnormalised, (B,), in float64."""
        ...


class Geometric:
    """The path whose log density is linear in b."""

    @staticmethod
    def rise(energy: EnergyFn, base: Distribution, x: Tensor, a: float, b: float) -> Tensor:
        """Return log p_b(x) - log p_a(x) = (b - a) u(x), (B,), in float64."""
        return (b - a) * log_ratio(energy, base, x)


class Annealed(Geometric, nn.Module):
    """The energy of p_b: -(1 - b) log p_0(x) + b E(x), (B, *shape) -> (B,).

    Its gradient is autograd's; core/derived.py adds two gradients, which changes the last bits.
    """

    def __init__(self, energy: EnergyFn, base: Distribution, b: float) -> None:
        super().__init__()
        self.energy, self.base, self.b = energy, base, b

    def forward(self, x: Tensor) -> Tensor:
        return self.b * self.energy(x) - (1 - self.b) * self.base.log_prob(x)


@torch.no_grad()
def log_ratio(energy: EnergyFn, base: Distribution, x: Tensor) -> Tensor:
    """Return u(x) = -E(x) - log p_0(x), (B, *shape) -> (B,), in float64."""
    return (-evaluate(energy, x) - base.log_prob(x)).double()


def forward_log_weights(rise: Rise, b: list[float], move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log w, x_{T-1}), (B,) and (B, *shape), from x ~ p_0 (B, *shape) along temperatures b from 0 to 1."""
    log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for t in range(1, len(b)):
        log_w = log_w + rise(x, b[t - 1], b[t])
        if t + 1 < len(b):
            x = move(x, t)
    return log_w, x


def reverse_log_weights(rise: Rise, b: list[float], move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log w, x_0), (B,) and (B, *shape), from x ~ p_1 (B, *shape); each increment precedes the move."""
    log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for t in range(len(b) - 1, 0, -1):
        log_w = log_w + rise(x, b[t - 1], b[t])
        if t > 1:
            x = move(x, t - 1)
    return log_w, x


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean w and its jackknife standard error over the last axis, (..., n) -> (...).

    The delta method's error, std(w) / (mean(w) sqrt(n)), never exceeds 1 nat, even if a single weight dominates the
    sum; the jackknife, which leaves out that weight, shows how much depends on it, and is infinite where it is the only
    one.
    """
    n = log_w.shape[-1]
    total = torch.logsumexp(log_w, -1, keepdim=True)
    top = torch.zeros_like(log_w, dtype=torch.bool).scatter(-1, log_w.argmax(-1, keepdim=True), True)
    others = torch.logsumexp(log_w.masked_fill(top, -torch.inf), -1, keepdim=True)
    # for the largest weight, 1 - share would lose digits
    without = torch.where(top, others, total + torch.log1p(-(log_w - total).exp()))
    error = (without.var(-1, correction=0) * (n - 1)).sqrt()
    return total.squeeze(-1) - math.log(n), error.nan_to_num(nan=torch.inf)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """Return (sum w)^2 / sum w^2 over the last axis, (..., n) -> (...): n for equal weights, 1 if one dominates."""
    return torch.exp(2 * torch.logsumexp(log_w, -1) - torch.logsumexp(2 * log_w, -1))


def fixed_schedule(name: str, steps: int) -> list[float]:
    """Return `steps` + 1 temperatures from 0 to 1. sigmoid: dense at both ends; geometric: equal ratios from 1e-4."""
    s = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if name == "sigmoid":
        wave = torch.sigmoid(8 * s - 4)
        s = (wave - wave[0]) / (wave[-1] - wave[0])
    elif name == "geometric":
        s = torch.cat([s[:1], 1e-4 ** (1 - s[1:])])
    return s.tolist()


class Whitened(nn.Module):
    """The energy of y, (B, d), for x = mean + L y: E(x) - log |det L|, which has the same log Z. `family`: makes the
    energy of p_b."""

    family: Family = Annealed

    def __init__(self, energy: EnergyFn, mean: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.within, self.mean, self.factor = Coordinates(energy, mean, factor), mean, factor
        self.log_det = float(factor.diagonal().double().log().sum())

    @property
    def base(self) -> IsotropicGaussian:
        """N(0, I) in y, which is N(mean, L L') in x."""
        return IsotropicGaussian(torch.zeros_like(self.mean.flatten()), 1.0)

    def forward(self, y: Tensor) -> Tensor:
        return self.within(y.view(-1, *self.mean.shape)) - self.log_det

    def x(self, y: Tensor) -> Tensor:
        """Map y to x, (B, d) -> (B, *shape)."""
        return self.within.x(y.view(-1, *self.mean.shape))

    def y(self, x: Tensor) -> Tensor:
        """Map x to y, (B, *shape) -> (B, d)."""
        return torch.linalg.solve_triangular(self.factor, (x - self.mean).flatten(1).T, upper=False).T

    def base_log_prob(self, x: Tensor) -> Tensor:
        """Return log N(x; mean, L L'), (B, *shape) -> (B,)."""
        return self.base.log_prob(self.y(x)) - self.log_det
