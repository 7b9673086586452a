"""A problem on the line where every expectation is a quadrature, and the parts of an identity's check.

    data:    p = .3 N(-1.5, .7^2) + .7 N(1, .9^2)
    energy:  E(x) = a x^2 / 2 + b x + c log cosh(x - .3),    theta = (a, b, c) = (.6, .2, -.8)

All in float64: means under p by the trapezoid rule, means over standard normals by Gauss and Hermite's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ebm_lab.core.functional import EnergyFn, evaluate, flat_sum, score
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.objectives.sm import implicit_score_matching

THETA = (0.6, 0.2, -0.8)


class LineEnergy(nn.Module):
    """E(x) as above, (B, 1) -> (B,)."""

    def __init__(self, theta: Sequence[float] = THETA) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        (a, b, c), u = self.theta, x[:, 0]
        v = (u - 0.3).abs()
        return a * u**2 / 2 + b * u + c * (v + torch.log1p(torch.exp(-2 * v)) - math.log(2))


def mixture(weights: Sequence[float], means: Sequence[float], stds: Sequence[float]) -> GaussianMixture:
    """A mixture on the line in float64."""
    w, m, s = (torch.tensor(t, dtype=torch.float64) for t in (weights, means, stds))
    return GaussianMixture(w, m[:, None], stds=s[:, None])


def data(blur: float = 0.0) -> GaussianMixture:
    """p * N(0, blur^2)."""
    return mixture((0.3, 0.7), (-1.5, 1.0), ((0.49 + blur**2) ** 0.5, (0.81 + blur**2) ** 0.5))


def nodes(n: int = 2001, reach: float = 11.0) -> tuple[Tensor, Tensor]:
    """(n, 1) points of [-reach, reach] and their weights (n,)."""
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    w = torch.full((n,), float(x[1] - x[0]), dtype=torch.float64)
    w[0] = w[-1] = w[0] / 2
    return x[:, None], w


def under(law: GaussianMixture, n: int = 2001) -> tuple[Tensor, Tensor]:
    """Points (n, 1) and probabilities (n,), so that (probabilities * f(points)).sum() is E_law f."""
    x, w = nodes(n)
    return x, w * law.log_prob(x).exp()


def normal_nodes(n: int = 40) -> tuple[Tensor, Tensor]:
    """Points (n,) and probabilities (n,) of N(0, 1), exact for polynomials up to degree 2 n - 1."""
    from numpy.polynomial.hermite_e import hermegauss

    z, w = (torch.from_numpy(t) for t in hermegauss(n))
    return z, w / w.sum()


def with_noise(x: Tensor, p: Tensor, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of x (N, 1) and normal z: x and z as (N n, 1), and their joint probabilities (N n,)."""
    z, q = normal_nodes(n)
    return x.repeat_interleave(n, 0), z.repeat(len(x))[:, None], (p[:, None] * q).flatten()


def mean(p: Tensor, values: Tensor) -> float:
    """sum of p * values."""
    return float((p * values.detach()).sum())


def log_z(energy: EnergyFn) -> Tensor:
    """log of the integral of exp(-E), 0-d, differentiable."""
    x, w = nodes()
    return torch.logsumexp(w.log() - evaluate(energy, x), 0)


def gradient(energy: LineEnergy, loss: Tensor) -> Tensor:
    """d loss / d theta, (3,)."""
    energy.theta.grad = None
    loss.backward()
    assert energy.theta.grad is not None
    return energy.theta.grad.clone()


def mle_gradient(energy: LineEnergy, law: GaussianMixture) -> Tensor:
    """The gradient of E_p E + log Z."""
    x, p = under(law)
    return gradient(energy, (p * evaluate(energy, x)).sum() + log_z(energy))


def j_ism(energy: EnergyFn, law: GaussianMixture) -> Tensor:
    """E_p[ 1/2 |s|^2 + tr grad s ], by the objective's own function."""
    x, p = under(law)
    return (p * implicit_score_matching(energy, x, chunk=1)[0]).sum()


def fisher(law: GaussianMixture, energy: EnergyFn) -> Tensor:
    """D_F = 1/2 E_p |s_p - s|^2."""
    x, p = under(law)
    difference = score(lambda y: -law.log_prob(y), x) - score(energy, x)
    return (p * 0.5 * flat_sum(difference**2)).sum()


@dataclass(frozen=True)
class Identity:
    """One identity, measured: |A - B| at each x, and how it should fall.

    `slope`: of log error against log x (`axis` "log") or of log error against x (`axis` "linear"); None where the
    identity is exact, and the errors are those of float64 and quadrature. `tolerance`: of the slope; else of the error.
    """

    row: int
    name: str
    equation: str
    files: str
    variable: str
    x: tuple[float, ...]
    error: tuple[float, ...]
    slope: float | None
    tolerance: float
    axis: Literal["log", "linear"] = "log"

    @property
    def fitted(self) -> float:
        """Fit the least-squares slope of the measured errors."""
        at = [math.log(x) if self.axis == "log" else x for x in self.x]
        to, n = [math.log(e) for e in self.error], len(self.x)
        mx, my = sum(at) / n, sum(to) / n
        return sum((a - mx) * (b - my) for a, b in zip(at, to, strict=True)) / sum((a - mx) ** 2 for a in at)

    @property
    def holds(self) -> bool:
        if self.slope is None:
            return max(self.error) <= self.tolerance
        return abs(self.fitted - self.slope) <= self.tolerance and self.error[-1] < self.error[0]


IDENTITIES: list[Callable[[], Identity]] = []


def identity(check: Callable[[], Identity]) -> Callable[[], Identity]:
    """Register an identity's check."""
    IDENTITIES.append(check)
    return check


def measure(error: Callable[[float], float], at: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(x, error) over `at`."""
    return tuple(float(a) for a in at), tuple(float(error(a)) for a in at)
