"""Variance, bias and cost of the estimators, measured by the objectives' own functions, beside known closed forms."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.random import seeded
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.objectives._contrastive import contrast
from ebm_lab.objectives.dsm import denoising_score_matching, dsm_control_variate
from ebm_lab.objectives.fdssm import finite_difference_ssm
from ebm_lab.objectives.sm import implicit_score_matching
from ebm_lab.objectives.ssm import Projection, projections, sliced_score_matching
from ebm_lab.samplers.langevin import langevin_step
from scripts.theory.likelihood import nce_gradient
from scripts.theory.line import LineEnergy, data, mle_gradient, normal_nodes

S, A = 1.7, 0.9
"""Data N(0, S) and energy A x^2 / 2, for the estimators that need one dimension only."""


class Curve(NamedTuple):
    """Measured values at x, and the theoretical ones if known."""

    name: str
    x: list[float]
    measured: list[float]
    expected: list[float] | None


def ssm_variances(n: int = 200_000) -> list[tuple[str, float, float]]:
    """(form, measured, closed form) of Var_v at a fixed point of a Gaussian in three dimensions: with M = J (reduced)
    or J + s s' / 2 (plain), 2 |M|^2, 2 (|M|^2 - sum M_ii^2) and 2 d / (d + 2) (|M|^2 - (tr M)^2 / d)."""
    precision = torch.tensor([[1.2, 0.4, -0.2], [0.4, 0.8, 0.3], [-0.2, 0.3, 1.5]], dtype=torch.float64)
    point, generator, found = torch.tensor([[0.7, -0.4, 1.1]], dtype=torch.float64), Generator().manual_seed(0), []
    laws: tuple[Projection, ...] = ("gaussian", "rademacher", "sphere")
    for reduced in (False, True):
        s = -point[0] @ precision
        m = -precision if reduced else -precision + 0.5 * torch.outer(s, s)
        square, trace, d = m.square().sum(), m.trace(), 3
        expected = {
            "gaussian": 2 * square,
            "rademacher": 2 * (square - m.diagonal().square().sum()),
            "sphere": 2 * d / (d + 2) * (square - trace**2 / d),
        }
        for law in laws:
            x = point.expand(n, d)
            values = sliced_score_matching(
                lambda y: 0.5 * ((y @ precision) * y).sum(1), x, projections(x, law, generator), reduced
            )
            name = f"{law}\n{'reduced' if reduced else 'plain'}"
            found.append((name, float(values[0].detach().var()), float(expected[law])))
    return found


def dsm_gradient(sigma: float, n: int, generator: Generator, controlled: bool, antithetic: bool) -> Tensor:
    """d/dA of Vincent's loss (the objective's over sigma^2), one per point, (n,)."""
    x = S**0.5 * torch.empty(n, 1, dtype=torch.float64).normal_(generator=generator)
    eps = torch.empty(n, 1, dtype=torch.float64).normal_(generator=generator)
    a = torch.full((n,), A, dtype=torch.float64, requires_grad=True)
    for sign in (1, -1) if antithetic else (1,):
        values = denoising_score_matching(lambda y: 0.5 * a * y[:, 0] ** 2, x, sign * eps, sigma)[0]
        if controlled:
            values = values - dsm_control_variate(lambda y: 0.5 * a * y[:, 0] ** 2, x, sign * eps, sigma)
        (values.sum() / (2 if antithetic else 1)).backward()
    assert a.grad is not None
    return a.grad / sigma**2


def dsm_variances(sigmas: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)) -> list[Curve]:
    """Variance of DSM's gradient over (x, eps) against sigma: S / sigma^2 as sigma -> 0, against a constant."""
    forms = {"plain": (False, False), "control variate": (True, False), "antithetic pair": (False, True)}
    expected = {"plain": [S / sigma**2 for sigma in sigmas]}
    return [
        Curve(
            name,
            list(sigmas),
            [float(dsm_gradient(t, 200_000, Generator().manual_seed(0), *form).var()) for t in sigmas],
            expected.get(name),
        )
        for name, form in forms.items()
    ]


def cd_bias(eps: float, ks: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> Curve:
    """|CD-k's gradient - the likelihood's| in A with unadjusted Langevin from the data; 1/2 (1 - r^{2k}) (S - v)
    against 1/2 (S - 1 / A), r = 1 - eps^2 A / 2, v = 1 / (A (1 - eps^2 A / 4)): never 0, for v is not 1 / A."""
    z, q = normal_nodes(8)
    r, v, likelihood = 1 - eps**2 * A / 2, 1 / (A * (1 - eps**2 * A / 4)), 0.5 * (S - 1 / A)
    measured = []
    for k in ks:
        a, chain = torch.tensor(A, dtype=torch.float64, requires_grad=True), torch.zeros(1, 1 + k, dtype=torch.float64)
        chain[0, 0] = S**0.5
        for unit in torch.eye(1 + k, dtype=torch.float64)[1:]:
            chain = langevin_step(chain, A * chain, unit, eps)
        e, e_neg = contrast(_half_square(a), S**0.5 * z[:, None], chain.norm() * z[:, None])
        (q * (e - e_neg)).sum().backward()
        measured.append(abs(float(a.grad or 0.0) - likelihood))
    expected = [abs(0.5 * (1 - r ** (2 * k)) * (S - v) - likelihood) for k in ks]
    return Curve(f"step {eps:g}", [float(k) for k in ks], measured, expected)


def _half_square(a: Tensor) -> EnergyFn:
    return lambda x: 0.5 * a * x[:, 0] ** 2


def nce_errors(std: float, ks: Sequence[float] = (1, 10, 100, 1000, 10_000)) -> Curve:
    """Largest error of NCE's gradient against the likelihood's, with k samples of N(0, std^2) per datum."""
    energy, noise = LineEnergy(), IsotropicGaussian(torch.zeros(1, dtype=torch.float64), std)
    exact = mle_gradient(energy, data())
    measured = [float((nce_gradient(energy, noise, k) - exact).abs().max()) for k in ks]
    return Curve(f"noise std {std:g}", [float(k) for k in ks], measured, None)


def network(d: int, rough: float = 1.0) -> nn.Sequential:
    """Two hidden layers of 128; `rough` multiplies the first and the last weights: features are 1 / rough wide."""
    with seeded(0):
        first, last = nn.Linear(d, 128), nn.Linear(128, 1)
        for layer in (first, last):
            layer.weight.data.mul_(rough)
        return nn.Sequential(first, nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), last)


def as_energy(net: nn.Module, offset: float = 0.0) -> EnergyFn:
    return lambda x: net(x).squeeze(1) + offset


def finite_difference_errors(d: int, steps: Sequence[float]) -> list[Curve]:
    """Root mean square errors of the finite difference against the sliced loss with the same directions, per point:
    truncation (float64) and rounding (float32 against float64), for a network with energies around 10 nats and
    features a tenth of the data's scale wide, as trained ones have."""
    generator, net = Generator().manual_seed(0), network(d, rough=10.0)
    x = torch.empty(1000, d).normal_(generator=generator)
    v = projections(x, "sphere", generator)
    single = [finite_difference_ssm(as_energy(net, 10.0), x, step * v, False)[0].detach().double() for step in steps]
    energy, xx, vv = as_energy(net.double(), 10.0), x.double(), v.double()
    exact = sliced_score_matching(energy, xx, vv, False)[0].detach()
    double = [finite_difference_ssm(energy, xx, step * vv, False)[0].detach() for step in steps]
    rms = [[float((a - b).square().mean().sqrt()) for a, b in zip(*pair, strict=True)] for pair in (
        (double, [exact] * len(steps)), (single, double)
    )]  # fmt: skip
    return [
        Curve(f"{what}, d = {d}", list(steps), values, None)
        for what, values in zip(("truncation", "rounding"), rms, strict=True)
    ]


def costs(ds: Sequence[int] = (2, 4, 8, 16, 32, 64), batch: int = 128) -> list[Curve]:
    """Seconds of one loss and its backward pass, over those of variance-reduced sliced score matching; best of 5."""
    ratios: dict[str, list[float]] = {"sm, all at once": [], "sm, 16 at a time": [], "fdssm": []}
    for d in ds:
        generator, net = Generator().manual_seed(0), network(d)
        x = torch.empty(batch, d).normal_(generator=generator)
        v, energy = projections(x, "sphere", generator), as_energy(net)
        base = _seconds(lambda e=energy, x=x, v=v: sliced_score_matching(e, x, v, True)[0])
        timed = {
            "sm, all at once": lambda e=energy, x=x: implicit_score_matching(e, x, x.shape[1])[0],
            "sm, 16 at a time": lambda e=energy, x=x: implicit_score_matching(e, x, 16)[0],
            "fdssm": lambda e=energy, x=x, v=v: finite_difference_ssm(e, x, 0.05 * v, False)[0],
        }
        for name, loss in timed.items():
            ratios[name].append(_seconds(loss) / base)
    return [Curve(name, [float(d) for d in ds], values, None) for name, values in ratios.items()]


def _seconds(loss: Callable[[], Tensor]) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        loss().mean().backward()
        best = min(best, time.perf_counter() - began)
    return best
