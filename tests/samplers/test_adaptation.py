"""Warm-up: the mass is the diagonal covariance, the step size meets its target, and both then stay for ever."""

import pytest
import torch

from ebm_lab.samplers._adaptation import Widths, pooled
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.mala import MALA
from tests.helpers import covariance, gaussian_energy
from tests.samplers.test_metropolis import moment, quartic, quartic_draws

VAR = torch.logspace(-4, 0, 9).double()
"""Of an ill-conditioned Gaussian, condition number 1e4."""


def ill_conditioned():
    return gaussian_energy(torch.zeros(9).double(), torch.diag(1 / VAR))


def mala(mass, warmup, rate=0.05, target=0.6):
    settings = {"target_acceptance": target, "adapt_rate": rate, "temperature": 1.0, "mass": mass, "warmup": warmup}
    return MALA(1.0, steps=10, step_size=0.1, **settings)


def hmc(mass, warmup, rate=0.1, target=0.8):
    settings = {"target_acceptance": target, "adapt_rate": rate, "temperature": 1.0, "mass": mass, "warmup": warmup}
    return HMC(1.0, steps=10, leapfrog=3, step_size=0.1, **settings)


def warm(sampler, energy, x, calls, generator):
    state = {}
    for _ in range(calls):
        x, state, metrics, _ = sampler(energy, x, state, generator=generator)
    return x, state, metrics


@pytest.mark.parametrize("make, target", [(mala, 0.6), (hmc, 0.8)], ids=["mala", "hmc"])
def test_the_mass_is_the_diagonal_covariance_and_the_acceptance_the_target(make, target, generator):
    """2,000 chains begun a hundred times too wide in the narrowest coordinate. After 400 proposals w^2 is the variance
    within 4 standard errors of what the weights k^7 leave of 40 nearly independent batches, 15 / 64 of their
    number: 4 sqrt(2 / 18,750) = 4.1 %; and 50 frozen proposals are accepted as asked."""
    sampler, energy = make("diagonal", 400), ill_conditioned()
    x, state, _ = warm(sampler, energy, torch.randn(2000, 9, generator=generator).double(), 40, generator)
    torch.testing.assert_close(
        sampler.widths.current(state) ** 2, VAR, rtol=4 * (2 / (2000 * 40 * 15 / 64)) ** 0.5, atol=0
    )
    acceptance = [float(sampler(energy, x, state, generator=generator).metrics["acceptance"]) for _ in range(5)]
    assert sum(acceptance) / 5 == pytest.approx(target, abs=0.02)


def test_the_warm_up_ends_with_its_last_proposal(generator):
    """Of calls of 10 proposals with a warm-up of 20, the second still changes the mass and the third does not."""
    sampler, energy, x = mala("diagonal", 20), ill_conditioned(), torch.randn(50, 9, generator=generator).double()
    (_, first, _), (_, second, _), (_, third, _) = (
        warm(sampler, energy, x, calls, torch.Generator().manual_seed(1)) for calls in (1, 2, 3)
    )
    assert not torch.equal(first["var"], second["var"]) and torch.equal(second["var"], third["var"])


def test_a_single_chain_learns_it_from_its_own_past(generator):
    """Variances of 4,000 proposals of one chain, in units where all are like the scale: within a factor 1.5."""
    var = torch.tensor([0.25, 1.0, 4.0]).double()
    energy = gaussian_energy(torch.tensor([5.0, 0.0, -5.0]).double(), torch.diag(1 / var))
    sampler = mala("diagonal", 4000)
    _, state, _ = warm(sampler, energy, torch.zeros(1, 3).double(), 400, generator)
    ratio = sampler.widths.current(state) ** 2 / var
    assert ratio.min() > 1 / 1.5 and ratio.max() < 1.5
    assert state["mean"] == pytest.approx(energy.mean.detach(), abs=1)


@pytest.mark.parametrize("make, factor", [(mala, 100), (hmc, 50)], ids=["mala", "hmc"])
def test_warm_up_speeds_an_ill_conditioned_target_up(make, factor, generator):
    """1 - autocorrelation over ten proposals in the widest coordinate, at the same target acceptance and cost: at least
    `factor` times that of the identity, and near 1."""
    share = {}
    for mass in ("identity", "diagonal"):
        sampler, energy = make(mass, 400), ill_conditioned()
        _, state, _ = warm(sampler, energy, torch.randn(2000, 9, generator=generator).double(), 40, generator)
        start = torch.randn(2000, 9, generator=generator).double() * VAR.sqrt()
        end = sampler(energy, start, state, generator=generator).x
        share[mass] = float(((end - start)[:, -1] ** 2).mean() / (2 * VAR[-1]))
    assert share["diagonal"] > max(factor * share["identity"], 0.9), share


@pytest.mark.parametrize("make", [mala, hmc], ids=["mala", "hmc"])
def test_once_frozen_the_law_is_exact_and_nothing_changes(make, generator):
    """A quartic energy, its coordinates stretched by 1/10, 1, 3 and 10: chains that begin at the law keep its second
    and fourth moments within 4 standard errors, and the state stays bit for bit but for its age."""
    stretch = torch.tensor([0.1, 1.0, 3.0, 10.0]).double().view(1, 2, 2)
    energy, sampler = lambda x: quartic(x / stretch), make("diagonal", 400)
    x, before, _ = warm(sampler, energy, 0.1 * torch.randn(500, 1, 2, 2, generator=generator).double(), 40, generator)
    assert float(sampler.widths.current(before).max() / sampler.widths.current(before).min()) > 50
    x, state = quartic_draws(8000 * 4, 1.0, generator).view(8000, 1, 2, 2) * stretch, before
    for _ in range(8):
        x, state, metrics, _ = sampler(energy, x, state, generator=generator)
    assert float(metrics["acceptance"]) < 0.95
    for power in (2, 4):
        values = ((x / stretch).flatten(1) ** power).mean(1)
        assert abs(float(values.mean()) - moment(power)) < 4 * float(values.std()) / len(values) ** 0.5
    assert int(before["age"]) == 400 and int(state["age"]) == 480
    assert all(torch.equal(state[key], before[key]) for key in before if key != "age")


def test_a_warm_up_that_ends_within_a_call_freezes_the_step_size_there(generator):
    energy = gaussian_energy(torch.zeros(5).double(), covariance(5, generator))
    x = torch.randn(50, 5, generator=generator).double()
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    four = mala("identity", 4)(energy, x, {}, generator=one)
    rest = mala("identity", None)
    rest.steps = 4
    assert torch.equal(rest(energy, x, {}, generator=two).state["log_eps"], four.state["log_eps"])


def test_without_warm_up_the_mass_follows_a_target_that_changes(generator):
    """A memory of 1 / adapt_rate = 20 proposals: 200 after the target grew three times as wide, so is the mass."""
    sampler, x, state = mala("diagonal", None), torch.randn(2000, 2, generator=generator).double(), {}
    for width, calls in ((1.0, 80), (3.0, 20)):
        energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double() / width**2)
        for _ in range(calls):
            x, state, _, _ = sampler(energy, x, state, generator=generator)
        found = sampler.widths.current(state)
        torch.testing.assert_close(found, torch.full_like(found, width), rtol=4 * (0.5 / 2000) ** 0.5, atol=0)


def test_pooling_is_that_of_all_points_by_their_weights(generator):
    """Three batches with weights a, b, c: mean and variance of the weighted union."""
    parts, weights = torch.randn(3, 7, 2, generator=generator).double() * 3 + 1, torch.tensor([0.2, 0.3, 0.5]).double()
    mean = var = torch.zeros(2).double()
    for i in range(3):
        mean, var = pooled(mean, var, parts[i], weights[i] / weights[: i + 1].sum())
    w = (weights / 7).repeat_interleave(7).view(-1, 1)
    flat = parts.flatten(0, 1)
    torch.testing.assert_close(mean, (w * flat).sum(0))
    torch.testing.assert_close(var, (w * (flat - mean) ** 2).sum(0))


def test_a_coordinate_that_never_moved_is_not_held_fast():
    """Chains that all agree have variance 0 and a width above it, 1e-3 scale^2 * 5 / (n + 5) with n points."""
    widths, x = Widths(2.0, 0.0), torch.zeros(4, 1)
    state = widths.update(widths.begin(x), x, 10, torch.tensor(10), None)
    assert float(widths.current(state)) == pytest.approx((1e-3 * 5 / 9) ** 0.5)


def test_identity_is_what_it_was(generator):
    """Without mass and warm-up a call keeps the step size alone, and counts."""
    state = mala("identity", None)(quartic, torch.zeros(4, 2), {}, generator=generator).state
    assert state.keys() == {"log_eps", "age"} and int(state["age"]) == 10
