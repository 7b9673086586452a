"""Recovery likelihood against its closed form for E = a x^2 / 2 and data N(0, s) at the lower of two levels.

With seen = x + gap z, p(x | seen) is N(seen / (gap^2 pi), 1 / pi), pi = a + 1 / gap^2.
"""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.interfaces import Batch
from ebm_lab.models.ladder import Ladder
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.models.recovery import recovery
from ebm_lab.objectives.drl import DRL, draw_pairs, recovery_contrast
from ebm_lab.samplers.barker import Barker
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from tests.helpers import Points, exact_sample, faults_of

S = 1.7
LOW = 0.1


class Bowl(NoiseEnergy):
    """E = a x^2 / 2 at every level."""

    def __init__(self, a: float, gap: float = 1.0) -> None:
        data = Points(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
        super().__init__(data, LOW, math.hypot(LOW, gap), 2)
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def correction(self, u, sigma):
        raise NotImplementedError

    def energy(self, x, sigma):
        return 0.5 * self.a * x.square().sum(1)


def nodes(n):
    """Gauss-Hermite nodes and weights of N(0, 1), by the eigenvalues of the Jacobi matrix."""
    off = torch.arange(1, n, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values, vectors[0] ** 2


def expected_log_likelihood(model, gap):
    """E log p(x | seen) of the energy that `recovery` makes, and E of the contrast with exact draws of x_neg: the
    outer averages by nodes that are exact for polynomials, the law of x_neg on a grid of u."""
    z, w = nodes(4)
    x, seen, weights = [], [], []
    for i in range(4):
        for j in range(4):
            x.append(S**0.5 * z[i])
            seen.append(x[-1] + gap * z[j])
            weights.append(w[i] * w[j])
    x, seen, weights = torch.stack(x)[:, None], torch.stack(seen)[:, None], torch.stack(weights)
    unit, grid = 2.0, torch.linspace(-60, 60, 24001, dtype=torch.float64)
    value = contrast = torch.zeros((), dtype=torch.float64)
    for k in range(16):
        here = recovery(model, seen[k : k + 1].expand(len(grid), 1), LOW, gap, unit)
        f = here(grid[:, None])
        log_z = torch.logsumexp(-f, 0) + math.log(float(grid[1] - grid[0]))
        own = recovery(model, seen[k : k + 1], LOW, gap, unit)((x[k : k + 1] - seen[k : k + 1]) * unit / gap)
        value = value + weights[k] * (-own[0] - log_z - math.log(gap / unit))
        x_neg, level = here.x(grid[:, None]), model.given(sigma=LOW)
        pairs = recovery_contrast(level, x[k : k + 1].expand(len(grid), 1), x_neg)
        contrast = contrast + weights[k] * (torch.softmax(-f.detach(), 0) * pairs).sum()
    return value, contrast


def closed_form(a, gap):
    pi, g2 = a + 1 / gap**2, gap**2
    kappa = 1 / (g2 * pi)
    return 0.5 * math.log(pi) - pi / 2 * ((1 - kappa) ** 2 * S + kappa**2 * g2) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("a, gap", [(0.9, 1.0), (0.4, 1.0), (0.9, 0.3), (1.3, 3.0)])
def test_the_law_given_the_noisy_copy_and_its_gradient(a, gap):
    """The value is the closed form (-1.2235379 at a = .9, gap = 1), and the contrast's gradient is minus its own."""
    model = Bowl(a, gap)
    value, contrast = expected_log_likelihood(model, gap)
    assert float(value.detach()) == pytest.approx(closed_form(a, gap), abs=1e-8)
    if (a, gap) == (0.9, 1.0):
        assert float(value.detach()) == pytest.approx(-1.2235379, abs=1e-7)
    (up,) = torch.autograd.grad(value, model.a, retain_graph=True)
    (down,) = torch.autograd.grad(contrast, model.a)
    assert float(down) == pytest.approx(-float(up), abs=1e-8)


@pytest.mark.parametrize("gap, difference", [(0.05, -0.05231 * 0.05**2), (10.0, -0.0195418)])
def test_between_score_matching_and_likelihood(gap, difference):
    """Of a = .9 and .4: gap -> 0 gives -gap^2 times the difference of score matching's a^2 s / 2 - a, -.0525 gap^2;
    gap -> infinity that of the log-likelihoods, -.0195349."""
    high, low = (expected_log_likelihood(Bowl(a, gap), gap)[0].detach() for a in (0.9, 0.4))
    assert float(high - low) == pytest.approx(difference, rel=2e-4)


def test_levels_differ_by_sample_and_the_step_is_relative_to_the_gap(generator):
    x, seen = (torch.randn(5, 1, generator=generator).double() for _ in range(2))
    gap, model = torch.linspace(0.2, 3, 5, dtype=torch.float64), Bowl(0.9)
    target = recovery(model, seen, torch.full((5,), LOW).double(), gap, 2.0)
    u = (x - seen) * 2 / gap[:, None]
    torch.testing.assert_close(target.x(u), x)
    expected = 0.45 * x[:, 0] ** 2 + (x - seen)[:, 0] ** 2 / (2 * gap**2)
    torch.testing.assert_close(target(u), expected)


@pytest.mark.parametrize("steps, a", [(1, 4.604), (10, 0.9910), (30, 0.6620)])
def test_short_chains_settle_at_another_energy(steps, a, generator):
    """b = .1: the loss is flat at 4.604, .991 and .662 after K = 1, 10, 30 steps, not at 1 / s = .5882: in 12 batches
    of 10,000, within 4 standard errors; at the truth it is outside them."""
    var = S - LOW**2
    langevin = Langevin(1.0, steps=steps, step_size=0.1**0.5, noise_scale=1.0, clip_grad=None)

    def slope(at):
        model, found = Bowl(at), []
        objective = DRL(model, langevin, generator, 1.0)
        for _ in range(12):
            x = var**0.5 * torch.randn(10_000, 1, generator=generator).double()
            loss = objective(Batch(x))
            found.append(torch.autograd.grad(loss.value, model.a)[0])
        found = torch.stack(found)
        return float(found.mean()) / (float(found.std()) / 12**0.5)

    assert abs(slope(a)) < 4
    assert slope(1 / S) < -8


def test_no_gradient_flows_into_the_chains(generator):
    x, x_neg = (torch.randn(4, 1, generator=generator).double().requires_grad_() for _ in range(2))
    recovery_contrast(Bowl(0.9).given(sigma=LOW), x, x_neg).sum().backward()
    assert x_neg.grad is None and x.grad is not None


def test_pairs_are_neighbours_and_all_equally_likely(generator):
    ladder = Ladder(5.0, 0.1, 6)
    low, gap = draw_pairs(ladder, 50_000, generator, torch.zeros(1).double())
    found, counts = low.unique(return_counts=True)
    torch.testing.assert_close(found.flip(0), torch.tensor([ladder.rung(i) for i in range(1, 6)]).double())
    assert ((counts / 10_000 - 1).abs() < 4 * 0.01).all()
    torch.testing.assert_close((low**2 + gap**2).sqrt(), low * 50 ** (1 / 5))


def test_the_user_is_warned_of_chains_too_short_for_a_density(generator):
    """K b, with b the square of the step: 10 x .09 and 40 x .25; an adapted step is not known beforehand."""

    def notes(sampler):
        law, *more = DRL(Bowl(0.9), sampler, generator, 1.0).notes
        assert law == "drl: the density that is measured is exp(-E) at the lowest noise level, 0.1"
        return more

    def langevin(k, step):
        return Langevin(3.0, steps=k, step_size=step, noise_scale=1.0, clip_grad=None)

    (line,) = notes(langevin(10, 0.3))
    assert line.startswith("drl: 10 steps of this size make K b = 0.9, and below 10 the chains stay too near")
    fixed = {"target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity", "warmup": None}
    for kernel in (MALA, Barker):
        (line,) = notes(kernel(3.0, steps=10, step_size=0.3, **fixed))
        assert line.startswith("drl: 10 steps of this size make K b = 0.9")
    adapted = {"target_acceptance": 0.6, "adapt_rate": 0.02, "temperature": 1.0, "mass": "identity", "warmup": None}
    assert not notes(langevin(40, 0.5)) and not notes(MALA(1.0, steps=2, step_size=0.1, **adapted))


def test_metrics_and_cost(generator):
    """At the true model x_neg has the law of x, so that it is as far from its start as x: E |x - seen|^2 = gap^2."""
    langevin = Langevin(1.0, steps=60, step_size=0.3, noise_scale=1.0, clip_grad=None)
    x = exact_sample(torch.zeros(1).double(), torch.tensor([[S - LOW**2]]).double(), 5000, generator)
    loss = DRL(Bowl(1 / S), langevin, generator, 1.0)(Batch(x))
    assert float(loss.metrics["moved"]) == pytest.approx(1.0, abs=0.05) and loss.grad_evals == 62 * 5000
    assert abs(float(loss.metrics["gap"])) < 0.06 and not any(m.requires_grad for m in loss.metrics.values())


def test_it_needs_levels_and_chains_that_stay_at_one():
    points = Points(torch.randn(20, 2))
    (line,) = faults_of(points, energy="mlp", objective="drl")
    assert "objective 'drl' needs a model of many noise levels" in line
    (line,) = faults_of(points, energy="noise_mlp", objective="drl", sampler="annealed_langevin")
    assert "trains with chains that stay at one energy" in line
