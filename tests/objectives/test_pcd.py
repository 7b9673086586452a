"""Persistent contrastive divergence: gradient and optimum against the likelihood's closed form, and no chain lost."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives._contrastive import contrast
from ebm_lab.objectives._replay_buffer import ReplayBuffer
from ebm_lab.objectives.pcd import PCD
from ebm_lab.samplers.langevin import Langevin
from tests.exhaustive import cases
from tests.helpers import Drift, Exact, Points, covariance, exact_sample, factor_gradient, gaussian_energy

SETTINGS = {"restart": 0.0, "refresh": 0, "data_noise": 0.0, "energy_l2": 0.0, "conditional": False}


@pytest.mark.parametrize("d", [1, 2, 10])
def test_gradient_is_that_of_the_likelihood(d, generator):
    """With negatives of the model's exact moments: dNLL/dP = (S' - P^-1)/2, dNLL/dmu = -P (m - mu)."""
    m, mu = torch.linspace(-1, 1, d).double(), torch.linspace(-1, 1, d).double() + 0.3
    cov, precision = covariance(d, generator), covariance(d, generator)
    x = exact_sample(m, cov, 500, generator)
    x_neg = exact_sample(mu, torch.linalg.inv(precision), 700, generator)
    energy = gaussian_energy(mu, precision)
    e_pos, e_neg = contrast(energy, x, x_neg)
    (e_pos.mean() - e_neg.mean()).backward()

    delta = m - mu
    grad_precision = 0.5 * (cov + torch.outer(delta, delta) - torch.linalg.inv(precision))
    torch.testing.assert_close(energy.mean.grad, -precision @ delta, rtol=1e-9, atol=1e-10)
    expected = factor_gradient(grad_precision, energy.factor.detach())
    torch.testing.assert_close(energy.factor.grad.tril(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 10])
def test_expected_gradient_of_the_objective_is_the_likelihood_s(d, generator):
    """The whole objective with an exact sampler: the mean of 400 gradients lies within 5 standard errors."""
    m, cov, precision = torch.zeros(d).double(), covariance(d, generator), covariance(d, generator)
    x = exact_sample(m, cov, 256, generator)
    energy = gaussian_energy(m + 0.3, precision)
    sampler = Exact(m + 0.3, torch.linalg.inv(precision))
    data = Points(x)
    objective = PCD(energy, sampler, data, generator, 256, buffer_size=512, **SETTINGS).double()
    draws = []
    for _ in range(400):
        energy.zero_grad()
        objective(Batch(x)).value.backward()
        draws.append(torch.cat([energy.mean.grad, energy.factor.grad.tril().flatten()]))
    draws = torch.stack(draws)
    delta = torch.full((d,), -0.3).double()
    grad_precision = 0.5 * (cov + torch.outer(delta, delta) - torch.linalg.inv(precision))
    expected = torch.cat([-precision @ delta, factor_gradient(grad_precision, energy.factor.detach()).flatten()])
    error, se = (draws.mean(0) - expected).abs(), draws.std(0) / 20
    assert (error <= 5 * se + 1e-9).all()


@pytest.mark.parametrize("d", cases([1, 2, 10], [1, 2]))
@pytest.mark.slow
def test_training_finds_the_optimum_with_langevin_s_known_bias(d, generator):
    """Langevin samples N(0, (P - eps^2 P^2 / 4)^-1), so PCD settles where that is the data's covariance, in its
    eigenbasis a* = (2 / eps^2)(1 - sqrt(1 - eps^2 / s))."""
    s = torch.linspace(0.8, 1.6, d).double()
    x = exact_sample(torch.zeros(d).double(), torch.diag(s), 2000, generator)
    energy = gaussian_energy(torch.zeros(d).double(), torch.eye(d).double())
    eps = 0.6
    sampler = Langevin(1.0, steps=10, step_size=eps, noise_scale=1.0, clip_grad=None)
    objective = PCD(energy, sampler, Points(x), generator, 2000, buffer_size=4000, **SETTINGS).double()
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.1)
    average, count = torch.zeros(d, d).double(), 0
    for step in range(1500):
        optimiser.zero_grad()
        objective(Batch(x)).value.backward()
        optimiser.step()
        if step >= 500:
            average, count = average + energy.precision.detach(), count + 1
    found = average / count
    expected = 2 / eps**2 * (1 - (1 - eps**2 / s).sqrt())
    # The mean of 1,000 correlated iterates, each fitted to 2,000 chains: its error is about 0.5 %.
    torch.testing.assert_close(found.diagonal(), expected, rtol=0.025, atol=0)
    assert (found - torch.diag(found.diagonal())).abs().max() < 0.03
    assert ((expected - 1 / s) / expected).min() > 0.05, "the bias is larger than the tolerance, so the test sees it"


def test_no_chain_is_lost(generator):
    """Each slot keeps its own chain: with a sampler that adds 1 a visit, position - start = visits, in every slot."""
    start = torch.arange(100.0).view(100, 1) * 1000
    buffer = ReplayBuffer(start)
    visits = torch.zeros(100)
    for _ in range(1000):
        slots = buffer.draw(16, generator)
        assert len(slots.unique()) == 16
        x = buffer.restart(slots, torch.full((16, 1), math.nan), 0.0, generator)
        buffer.put(slots, x + 1, 1)
        visits[slots] += 1
    assert torch.equal(buffer.x[:, 0], start[:, 0] + visits)
    assert (visits - 160).abs().max() < 5 * (1000 * 0.16 * 0.84) ** 0.5, "every slot is visited alike"
    assert torch.equal(buffer.age, visits.long())


def test_objective_puts_chains_back_where_they_came_from(generator):
    x = torch.zeros(32, 2)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()).float()
    objective = PCD(energy, Drift(1.0), Points(torch.randn(64, 2)), generator, 32, buffer_size=128, **SETTINGS)
    before = objective.buffer.x.clone()
    for _ in range(50):
        objective(Batch(x))
    moved = objective.buffer.x - before
    torch.testing.assert_close(moved, objective.buffer.age.view(-1, 1).expand(-1, 2) / Drift.steps, atol=1e-4, rtol=0)
    assert int(objective.buffer.age.sum()) == 50 * 32 * Drift.steps


def test_restarts_happen_at_the_given_rate(generator):
    """20,000 visits with probability 0.05: within 4 standard errors (0.6 %) of 1,000, each to its fresh row."""
    buffer = ReplayBuffer(torch.zeros(1000, 1))
    restarted = 0
    for _ in range(100):
        slots = buffer.draw(200, generator)
        fresh = torch.ones(200, 1)
        x = buffer.restart(slots, fresh, 0.05, generator)
        restarted += int(x.sum())
        buffer.put(slots, torch.zeros(200, 1), 5)
    assert abs(restarted / 20_000 - 0.05) < 4 * (0.05 * 0.95 / 20_000) ** 0.5
    assert int((buffer.age == 5).sum()) > 0


def test_energy_l2_adds_the_mean_squares(generator):
    x = torch.randn(16, 2, generator=generator)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()).float()
    losses = []
    for weight in (0.0, 0.5):
        own = torch.Generator().manual_seed(1)
        objective = PCD(energy, Drift(0.0), Points(x), own, 16, buffer_size=16, **{**SETTINGS, "energy_l2": weight})
        losses.append(objective(Batch(x)).value)
    squares = energy(x).square().mean() + energy(objective.buffer.x).square().mean()
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * squares)


def test_data_noise_has_the_given_std(generator):
    """Measured through a linear energy: Var E(x + noise) = (noise * scale)^2."""
    data = Points(torch.randn(4000, 1, generator=generator) * 3)
    seen = []

    class Record(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return x.sum(1)

    objective = PCD(Record(), Drift(0.0), data, generator, 4000, buffer_size=4000, **{**SETTINGS, "data_noise": 0.2})
    objective(Batch(torch.zeros(4000, 1)))
    noise = seen[-1][:4000]
    assert float(noise.std()) == pytest.approx(0.2 * data.scale, rel=0.05)


def test_buffer_smaller_than_a_batch_is_refused(generator):
    energy = gaussian_energy(torch.zeros(1).double(), torch.eye(1).double())
    with pytest.raises(UserError, match="objective.buffer_size=4: must be at least batch_size=8"):
        PCD(energy, Drift(), Points(torch.randn(8, 1)), generator, 8, buffer_size=4, **SETTINGS)
