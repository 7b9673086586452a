"""Dual score matching against closed forms: the scores in space and time of a mixture, its weights, its normaliser."""

import math

import pytest
import torch

from ebm_lab.core.functional import level_gradients
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.random import stream
from ebm_lab.models.levels import log_z_at_the_top
from ebm_lab.objectives.dual_sm import DualSM, dual_scores
from ebm_lab.objectives.multi_dsm import space_loss, time_loss
from tests.helpers import Points, faults_of
from tests.models.test_levels import ExactMixture, gaussian_model
from tests.objectives.test_dsm import noise_like

LADDER = {"sigma_min": 0.1, "sigma_max": 10.0, "levels": 12}


def two_gaussians():
    """0.3 N(-1.5, .8^2) + 0.7 N(1, .8^2)."""
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.5], [1.0]]).double()
    x = torch.linspace(-9, 9, 6001, dtype=torch.float64)[:, None]
    return ExactMixture(Points(x), weights, means, 0.8, **LADDER)


def test_the_targets_conditional_means_are_the_two_scores():
    """.3 N(-1.5, .7^2) + .7 N(1, .9^2) at y = .4, t = .8: E[d/2t - |y-x|^2/2t^2 | y] = dU/dt = .1316175."""
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means, stds = torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.7, 0.9]).double()

    def density(y, variance):
        return (weights * (-((y - means) ** 2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()).sum(-1)

    y, t = 0.4, torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([y], dtype=torch.float64, requires_grad=True)
    u = -density(at, stds**2 + t).log()
    grad, rate = torch.autograd.grad(u, (at, t))
    x = torch.linspace(-12, 12, 40001, dtype=torch.float64)[:, None]
    posterior = density(x, stds**2) * (-((y - x[:, 0]) ** 2) / 1.6).exp()
    posterior = posterior / posterior.sum()
    assert float(rate) == pytest.approx(0.1316175, abs=1e-7)
    ys, ts = torch.full_like(x, y), torch.full((len(x),), 0.8, dtype=torch.float64)

    def losses(by, turn):
        space, time = dual_scores(grad.expand_as(x) * by, 0.8 * rate.expand(len(x)) * turn, x, ys, ts)
        return torch.stack([(posterior * term).sum() for term in (space, time)])

    least = losses(1.0, 1.0)
    for h in (1e-4, -1e-4):  # least at the true scores, and with slope 0: the targets' means are these
        assert (losses(1 + h, 1 + h) > least).all()
        torch.testing.assert_close(losses(1 + h, 1 + h), least, rtol=0, atol=1e-7)
    assert (losses(1.0, 1.1)[1] > least[1]) and losses(1.1, 1.0)[0] > least[0]


def test_it_is_the_published_weighting_of_the_terms_of_multi_dsm(generator):
    """(2 / d) (1/2 |sigma s + z|^2 + 1/2 time_loss), with t = sigma^2 and t dU/dt = 1/2 dU / d log sigma."""
    model, data, _ = gaussian_model(generator, d=3)
    x, sigma = data.train[:200], torch.linspace(0.1, 5, 200, dtype=torch.float64)
    z = noise_like(data.train, generator)[:200]
    y = x + sigma[:, None] * z
    _, grad, rate = model.level_gradients(y, sigma)
    space, time = dual_scores(1.3 * grad, 0.5 * 0.8 * rate, x, y, sigma**2)
    torch.testing.assert_close(space, 2 / 3 * space_loss(-1.3 * grad, z, sigma))
    torch.testing.assert_close(time, 1 / 3 * time_loss(0.8 * rate, z))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_objective_is_the_mean_of_its_equation(weight, generator):
    """At the true model of N(m, s^2 I): mean over the ladder of 1 - r and (1 - r^2) / 2d, r = sigma^2 / v^2."""
    model, data, _ = gaussian_model(generator)
    loss = DualSM(model, generator, antithetic=True, time_weight=weight)(Batch(data.train.repeat(10, 1)))
    sigma = model.ladder.spread(torch.linspace(0, 1, 10001).double())
    r = sigma**2 / (0.49 + sigma**2)
    expected = (1 - r).mean() + weight * (1 - r * r).mean() / 4
    assert float(loss.value.detach()) == pytest.approx(float(expected), rel=0.03)  # 20,000 points: 4 SE
    assert loss.grad_evals == 2 * 2 * 20000 and not any(m.requires_grad for m in loss.metrics.values())


def test_the_time_score_sees_the_weights_of_distant_modes(generator):
    """Two modes 12 stds apart: with weights .2 for .5 the scores in space hardly change, and the time term does."""
    means = torch.tensor([[-6.0], [6.0]]).double()
    losses = {}
    for w in (0.5, 0.2):
        weights = torch.tensor([w, 1 - w]).double()
        z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1)).double()
        x = torch.where(torch.arange(4000)[:, None] % 2 == 0, means[0], means[1]) + z
        model = ExactMixture(Points(x), weights, means, 1.0, sigma_min=1.0, sigma_max=4.0, levels=4)
        sigma = torch.full((4000,), 4.0, dtype=torch.float64)
        y = x + 4 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(2)).double()
        _, grad, rate = model.level_gradients(y, sigma)
        losses[w] = torch.stack([term.mean() for term in dual_scores(grad, 0.5 * rate, x, y, sigma**2)]).detach()
    assert (losses[0.2] - losses[0.5] > torch.tensor([0.01, 0.001])).all()


def test_log_z_at_the_top_needs_memory_for_few_points_at_a_time():
    """20,000 draws, at most 1,024 of them in one pass, and the same value as in one."""
    model, sizes = two_gaussians(), []
    energy = model.energy

    def counted(x, sigma):
        sizes.append(len(x))
        return energy(x, sigma) + 0.1 * x[:, 0]

    model.energy = counted
    value = float(log_z_at_the_top(model))
    assert max(sizes) <= 1024 and sum(sizes) == 20_000
    x = model.prior().sample(20_000, stream(0, "log_z_at_the_top", 0, model.mean.device))
    sigma = torch.tensor([model.ladder.sigma_max], dtype=x.dtype)
    ratio = -energy(x, sigma) - 0.1 * x[:, 0] - model.prior().log_prob(x)
    assert value == pytest.approx(float(ratio.logsumexp(0)) - math.log(20_000), abs=1e-9)


def test_the_constant_is_known_at_the_top():
    """A constant c in the energy is found to 1e-3 nats: the mixture blurred by 10 is nearly the model's Gaussian, and
    the constant is the same at the lowest level, where p integrates to one."""
    model = two_gaussians()
    energy, c = model.energy, 0.7
    assert abs(float(log_z_at_the_top(model))) < 1e-3
    model.energy = lambda x, sigma: energy(x, sigma) + c
    objective = DualSM(model, torch.Generator(), antithetic=True, time_weight=1.0)
    assert float(objective.learnt_log_z()) == pytest.approx(-c, abs=1e-3)
    grid = torch.linspace(-20, 20, 20001, dtype=torch.float64)[:, None]
    log_z = torch.logsumexp(-objective.model()(grid), 0) + math.log(40 / 20000)
    assert float(log_z) == pytest.approx(-c, abs=1e-6)


@pytest.mark.parametrize("top, change", [(100.0, 1.856367), (1000.0, 2.998510), (10_000.0, 4.148881)])
def test_the_time_score_integrates_to_the_energy(top, change):
    """U(.4, t) - U(.4, 0) of .3 N(-1.5, .7^2) + .7 N(1, .9^2), by the rate in log t: the way down from the top."""
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means, stds = torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.7, 0.9]).double()

    def energy(x, sigma):
        variance = stds**2 + sigma[:, None] ** 2
        return -torch.logsumexp(weights.log() - (x - means) ** 2 / (2 * variance) - variance.log() / 2, 1) + 0.9189385

    t = torch.logspace(-8, math.log10(top), 4001, dtype=torch.float64)
    _, _, rate = level_gradients(energy, torch.full((4001, 1), 0.4, dtype=torch.float64), t.sqrt())
    found = torch.trapezoid(0.5 * rate, t.log())
    assert float(found.detach()) == pytest.approx(change, abs=1e-5)


def test_it_needs_an_energy():
    points = Points(torch.randn(20, 2))
    (line,) = faults_of(points, energy="score_mlp", objective="dual_sm")
    assert line.startswith("objective 'dual_sm' needs an energy, and energy 'score_mlp' is a score network")
