"""BAOAB against its stationary law: exact for Gaussians whatever the step, of fourth order at full friction."""

import math

import numpy as np
import pytest
import torch

from ebm_lab.core.functional import energy_and_grad
from ebm_lab.samplers.underdamped import Phase, Underdamped, baoab
from tests.helpers import covariance, gaussian_energy

PRECISION = torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double()


def sampler(h, steps=10, friction=1.0, temperature=1.0):
    return Underdamped(1.0, steps=steps, step_size=h, friction=friction, temperature=temperature)


def step(grad, x, v, z, h, c, temperature=1.0):
    """(x, v) after one step on an energy of which only the gradient matters."""
    zero = torch.zeros(len(x)).double()
    phase, _ = baoab(lambda x: (zero, grad(x)), Phase(x, v, zero, grad(x)), z, h, c, temperature)
    return phase.x, phase.v


@pytest.mark.parametrize("h", [0.1, 0.8, 1.3])
@pytest.mark.parametrize("friction", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_stationary_covariance_solves_the_step_s_lyapunov_equation(h, friction, temperature):
    """On a Gaussian a step is linear, u' = A u + G z: its covariance S = A S A' + G G' is T P^-1 in x,
    T (I - h^2 P / 4) in v and 0 between them, to 1e-10."""
    unit, none = torch.eye(2).double(), torch.zeros(2, 2).double()
    c = math.exp(-friction * h)
    rows = [torch.cat(step(lambda x: x @ PRECISION, *u, h, c, temperature), 1) for u in _basis(unit, none)]
    a, g = torch.cat(rows[:2]).T, rows[2].T
    expected = torch.block_diag(temperature * torch.linalg.inv(PRECISION), temperature * (unit - h**2 / 4 * PRECISION))
    torch.testing.assert_close(a @ expected @ a.T + g @ g.T, expected, rtol=0, atol=1e-10)
    assert torch.linalg.eigvals(a).abs().max() < 1, "so the solution is the only one"


def _basis(unit, none):
    return (unit, none, none), (none, unit, none), (none, none, unit)


@pytest.mark.parametrize("shape", [(1,), (1, 2, 2)], ids=["points", "images"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_calls_keep_the_law_even_where_chains_swap_velocities(shape, shuffle, generator):
    """h^2 k = 2 for E = k |x|^2 / 2, calls of three steps: Var x = 1 / k and Var v = 1 - h^2 k / 4 = 1/2, within 4
    standard errors, also with the chains dealt anew before each call, as a replay buffer does."""
    k, h, n = 2.0, 1.0, 40_000
    x, state = torch.randn(n, *shape, generator=generator).double() / k**0.5, {}
    for _ in range(60):
        if shuffle:
            x = x[torch.randperm(n, generator=generator)]
        energy = lambda x: 0.5 * k * x.flatten(1).square().sum(1)  # noqa: E731
        x, state, _, _ = sampler(h, steps=3, friction=0.5)(energy, x, state, generator=generator)
    se = (2 / x.numel()) ** 0.5
    assert abs(k * float(x.square().mean()) - 1) < 4 * se
    assert abs(float(state["v"].square().mean()) - 0.5) < 4 * 0.5 * se
    assert abs(float((x * state["v"]).mean())) < 4 * (0.25 / x.numel()) ** 0.5


def test_velocities_drawn_anew_would_bias(generator):
    """What the velocities' place in `state` is for: the same calls begun with {} widen x, here by 0.241, from
    the fixed point of the step's linear map."""
    energy, x = lambda x: x.square().sum(1), torch.randn(40_000, 1, generator=generator).double() / 2**0.5
    for _ in range(60):
        x = sampler(1.0, steps=3, friction=0.5)(energy, x, {}, generator=generator).x
    assert abs(2 * float(x.square().mean()) - 1.2408) < 4 * 1.24 * (2 / len(x)) ** 0.5


def test_correlated_gaussian_and_temperature(generator):
    cov = covariance(3, generator)
    energy = gaussian_energy(torch.tensor([1.0, -2.0, 0.5]).double(), torch.linalg.inv(cov))
    x, state, kept = torch.zeros(5000, 3).double(), {}, []
    for call in range(30):
        x, state, _, _ = sampler(0.5, steps=20, temperature=0.5)(energy, x, state, generator=generator)
        kept += [x] if call >= 10 else []
    draws = torch.cat(kept)
    size = float(cov.diagonal().max())
    # 100,000 draws, correlated in time by at most a factor 10: an error of 4 % of the size is 4 standard errors.
    torch.testing.assert_close(draws.T.cov(), 0.5 * cov, atol=0.02 * size, rtol=0)
    torch.testing.assert_close(draws.mean(0), energy.mean.detach(), atol=0.04 * size**0.5, rtol=0)


def second_moment_at_full_friction(h):
    """E x^2 under the stationary law of x for E = x^2 / 2 + cos(2 x) / 2 and c = 0, by quadrature.

    After O the velocity is fresh, so the middles y = x - (h / 2) v_hot of the steps are a Markov chain in one
    dimension, whose law is the left eigenvector of the step, by Gauss-Hermite noise and Chebyshev interpolation in y.
    """
    grad = lambda x: x - torch.sin(2 * x)  # noqa: E731
    n, reach = 160, 7.0
    nodes, (z, weights) = np.cos(np.pi * np.arange(n + 1) / n), np.polynomial.hermite_e.hermegauss(50)
    weights = weights / weights.sum()
    y, noise = (t.reshape(-1, 1) for t in torch.meshgrid(*map(torch.tensor, (nodes * reach, z)), indexing="ij"))
    x, v = step(grad, y, (h / 2) * grad(y), noise, h, 0.0)  # this v is all used up at the first A: B leaves 0
    ahead = (x + (h / 2) * (v - (h / 2) * grad(x))).numpy().ravel() / reach
    signs = (-1.0) ** np.arange(n + 1)
    signs[[0, -1]] /= 2
    ratio = signs / (np.clip(ahead, -1, 1)[:, None] - nodes + 1e-15)
    interpolation = (ratio / ratio.sum(1, keepdims=True)).reshape(n + 1, len(z), n + 1)
    kernel = np.einsum("iqj,q->ij", interpolation, weights)
    values, vectors = np.linalg.eig(kernel.T)
    law = np.real(vectors[:, np.argmin(abs(values - 1))])
    return float((law / law.sum()) @ (x.numpy().reshape(n + 1, -1) ** 2 @ weights))


def test_the_law_of_an_anharmonic_energy_has_fourth_order_at_full_friction():
    """Halving h divides the error of E x^2 by 16."""
    x = torch.linspace(-12, 12, 40_001).double()
    p = torch.exp(-(x**2 / 2 + torch.cos(2 * x) / 2))
    exact = float((p * x**2).sum() / p.sum())
    errors = [second_moment_at_full_friction(h) - exact for h in (0.8, 0.4, 0.2)]
    assert abs(errors[0]) > 1e-3
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.1), errors


def test_shadow_work_fulfils_its_fluctuation_theorem(generator):
    """From the exact law of (x, v), E exp(-work / T) = 1 (each step has a mirror image), within 4 standard errors, and
    the metric is its Metropolis acceptance: 1 as h -> 0."""
    temperature, n = 0.7, 200_000
    x, v, z = (torch.randn(n, 1, generator=generator).double() for _ in range(3))
    x, v = x * (temperature / 2) ** 0.5, v * temperature**0.5
    at = lambda x: (x.square().sum(1), 2 * x)  # noqa: E731
    _, work = baoab(at, Phase(x, v, *at(x)), z, 0.8, 0.6, temperature)
    values = (-work / temperature).exp()
    assert float(work.std()) > 0.1
    assert abs(float(values.mean()) - 1) < 4 * float(values.std()) / n**0.5
    energy = lambda x: x.square().sum(1)  # noqa: E731
    fine, coarse = (float(sampler(h)(energy, x, {}, generator=generator).metrics["acceptance"]) for h in (0.01, 1.0))
    assert fine > 0.999 > 0.95 > coarse


def test_it_takes_k_plus_1_gradients_and_hands_its_velocities_on(generator):
    calls = []

    def energy(x):
        calls.append(1)
        return x.square().flatten(1).sum(1)

    x = torch.zeros(4, 3, 2)
    out = sampler(0.1, steps=10)(energy, x, {}, generator=generator)
    assert len(calls) == 11 and out.grad_evals == 44 and out.state["v"].shape == x.shape
    half = sampler(0.1, steps=5)
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    whole = sampler(0.1, steps=10)(energy, x, out.state, generator=one)
    first = half(energy, x, out.state, generator=two)
    assert torch.equal(half(energy, first.x, first.state, generator=two).x, whole.x)


def test_differentiable_chains_carry_the_exact_gradient():
    def end(a):
        own = torch.Generator().manual_seed(5)
        energy = lambda x: 0.5 * a * x.square().sum(1) + (a * x).cos().sum(1)  # noqa: E731
        return sampler(0.4, steps=3)(
            energy, torch.full((3, 2), 1.5).double(), {}, generator=own, differentiable=True
        ).x.sum()

    a = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(end(a), a)
    difference = ((end(a + 1e-5) - end(a - 1e-5)) / 2e-5).detach()
    assert float(grad) == pytest.approx(float(difference), rel=1e-6)


def test_the_acceptance_is_that_of_the_last_step_s_work(generator):
    """Mean of min(1, exp(-work / T)), by the step itself from the same velocities and noise."""
    x, precision = torch.randn(200, 2, generator=generator).double(), torch.tensor([[3.0, 0.5], [0.5, 2.0]]).double()
    energy = gaussian_energy(torch.zeros(2).double(), precision)
    v, h, temperature = torch.randn(200, 2, generator=generator).double(), 0.9, 0.7
    once = sampler(h, steps=1, temperature=temperature)
    chain = once(energy, x, {"v": v}, generator=torch.Generator().manual_seed(2))
    z = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(2))
    start = Phase(x, v, *energy_and_grad(energy, x))
    new, work = baoab(lambda y: energy_and_grad(energy, y), start, z, h, once.c, temperature)
    torch.testing.assert_close(chain.x, new.x)
    expected = torch.minimum(torch.ones(()).double(), (-work / temperature).exp()).mean()
    assert float(chain.metrics["acceptance"]) == pytest.approx(float(expected)) and expected < 0.98
