"""Microcanonical Langevin Monte Carlo: the step, the order of its error, its exact ratio, and its laws."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.samplers._metropolis import Point
from ebm_lab.samplers.adjusted_mclmc import AdjustedMCLMC
from ebm_lab.samplers.mclmc import MCLMC, bend, microcanonical_step, unit
from tests.samplers.test_metropolis import moment, quartic, quartic_draws

P = torch.linspace(0.5, 2, 10, dtype=torch.float64)
FIXED = {"target_acceptance": None, "adapt_rate": 0.0, "mass": "identity", "warmup": None}


def gaussian(x):
    return 0.5 * (P * x.square()).sum(1)


def errors(eps, n, generator):
    """dH of trajectories of length 4 from the exact law."""
    at = lambda x: Point(x, gaussian(x), P * x)  # noqa: E731
    now = at(torch.randn(n, 10, generator=generator).double() / P.sqrt())
    u, total = unit(torch.randn(n, 10, generator=generator).double()), torch.zeros(n).double()
    for _ in range(round(4 / eps)):
        now, u, error = microcanonical_step(at, now, u, eps)
        total = total + error
    return total


def test_the_half_step_is_its_formula(generator):
    """In float64, for moderate delta, where hyperbolic functions don't overflow; u stays on the sphere."""
    u, g = (
        unit(torch.randn(50, 1, 2, 3, generator=generator).double()),
        5 * torch.randn(50, 1, 2, 3, generator=generator).double(),
    )
    new, change = bend(u, g, 0.7)
    flat, e = u.flatten(1), -g.flatten(1) / g.flatten(1).norm(dim=1, keepdim=True)
    delta, along = 0.35 * g.flatten(1).norm(dim=1, keepdim=True) / 5, (e * flat).sum(1, keepdim=True)
    grown = delta.cosh() + along * delta.sinh()
    torch.testing.assert_close(new.flatten(1), (flat + e * (delta.sinh() + along * (delta.cosh() - 1))) / grown)
    torch.testing.assert_close(change, 5 * grown.log().squeeze(1))
    torch.testing.assert_close(new.flatten(1).norm(dim=1), torch.ones(50).double())


def test_steep_and_flat_energies_leave_it_finite():
    u = unit(torch.randn(20, 4))
    steep, change = bend(u, 1e6 * torch.randn(20, 4), 1.0)
    assert steep.isfinite().all() and change.isfinite().all()
    against, change = bend(u, 1e6 * u, 1.0)  # straight uphill: the direction stays or is reversed
    assert against.isfinite().all() and change.isfinite().all()
    same, change = bend(u, torch.zeros(20, 4), 1.0)
    torch.testing.assert_close(same, u)
    torch.testing.assert_close(change, torch.zeros(20))


def test_the_energy_error_falls_as_eps_squared_and_its_exponential_has_mean_1(generator):
    """std(dH) / d = 9.1e-4, 2.3e-4 and 5.7e-5 at eps = 0.4, 0.2 and 0.1, known to 1.1 % (4,000 trajectories, three
    errors are 5 % with its heavy tails); E exp(-dH) = 1 within 4 standard errors."""
    for eps, known in ((0.4, 9.1e-4), (0.2, 2.3e-4), (0.1, 5.7e-5)):
        change = errors(eps, 4000, generator)
        assert float(change.std()) / 10 == pytest.approx(known, rel=0.05)
        weight = (-change).exp()
        assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / 4000**0.5


@pytest.mark.parametrize("eps", [0.3, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_adjusted_the_law_is_exact_at_any_step_size(eps, temperature, generator):
    """Chains that begin at the law stay there: second and fourth moments of a quartic energy on (1, 2, 2)-shaped states
    within 4 standard errors."""
    sampler = AdjustedMCLMC(1.0, steps=8, leapfrog=3, step_size=eps, temperature=temperature, **FIXED)
    x = quartic_draws(8000 * 4, temperature, generator).view(8000, 1, 2, 2)
    for _ in range(2):
        x, _, metrics, evals = sampler(quartic, x, {}, generator=generator)
    assert float(metrics["acceptance"]) < 0.995 and evals == 25 * 8000
    for power in (2, 4):
        values = (x.flatten(1) ** power).mean(1)
        assert abs(float(values.mean()) - moment(power, temperature)) < 4 * float(values.std()) / len(values) ** 0.5


def test_adjusted_variances_of_a_gaussian_from_one_point(generator):
    """4 steps of 0.7 in ten dimensions, 60 proposals of 4,000 chains: variances within 4 standard errors, acceptance
    above 0.98."""
    sampler = AdjustedMCLMC(1.0, steps=60, leapfrog=4, step_size=0.7 / 10**0.5, temperature=1.0, **FIXED)
    out = sampler(gaussian, torch.zeros(4000, 10).double(), {}, generator=generator)
    assert ((out.x.var(0) * P - 1).abs() < 4 * (2 / 4000) ** 0.5).all() and float(out.metrics["acceptance"]) > 0.98


def test_unadjusted_chains_reach_the_law_up_to_their_energy_error(generator):
    """Ten dimensions, energy error below 5e-4: variances within 4 standard errors and 2 %; at T = 0.5 half as large."""
    for temperature in (1.0, 0.5):
        sampler = MCLMC(1.0, steps=80, step_size=0.2 * temperature**0.5, length=1.0, temperature=temperature)
        x, state = torch.zeros(4000, 10).double() + 1, {}
        for _ in range(2):
            x, state, metrics, evals = sampler(gaussian, x, state, generator=generator)
        assert float(metrics["energy_error"]) < 5e-4 and evals == 81 * 4000
        assert ((x.var(0) * P / temperature - 1).abs() < 4 * (2 / 4000) ** 0.5 + 0.02).all()
        assert float(x.mean(0).abs().max()) < 4 * (temperature / 0.5 / 4000) ** 0.5


def test_directions_are_forgotten_over_the_length(generator):
    """On a flat energy E u' . u = a product of E cos, about exp(-eps / L) a step: over L it is 1 / e within 5 %."""
    sampler = MCLMC(1.0, steps=10, step_size=0.1, length=1.0, temperature=1.0)
    x = torch.zeros(4000, 50).double()
    begun = sampler.begin(lambda x: 0 * x.sum(1), x, generator)
    after = sampler(lambda x: 0 * x.sum(1), x, begun, generator=generator).state["u"]
    assert float((begun["u"] * after).sum(1).mean()) == pytest.approx(math.exp(-1), rel=0.05)


def test_a_length_far_below_the_step_forgets_the_direction_at_once(generator):
    """Ten steps of one length each by a flat energy, none bent: the displacements are independent directions, with
    |sum|^2 = 10 in the mean; its std over chains is about sqrt(2 / d) 10."""
    sampler = MCLMC(1.0, steps=10, step_size=1.0, length=1e-3, temperature=1.0)
    chain = sampler(lambda x: 0 * x.sum(1), torch.zeros(4000, 10).double(), {}, generator=generator)
    square = (chain.x / 10**0.5).square().sum(1)
    assert float(square.mean()) == pytest.approx(10, abs=4 * float(square.std()) / 4000**0.5)


@pytest.mark.parametrize("name", ["mclmc", "adjusted_mclmc"])
def test_one_dimension_is_refused(name):
    sampler = {
        "mclmc": MCLMC(1.0, steps=1, step_size=0.1, length=1.0, temperature=1.0),
        "adjusted_mclmc": AdjustedMCLMC(1.0, steps=1, leapfrog=1, step_size=0.1, temperature=1.0, **FIXED),
    }[name]
    with pytest.raises(UserError, match=f"sampler '{name}': in one dimension there is no direction to bend: choose"):
        sampler(quartic, torch.zeros(3, 1), {}, generator=torch.Generator())
