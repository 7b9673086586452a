"""The learned Stein discrepancy: its best critic and value, the trace, the energy's gradient, turns."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.functional import flat_sum, score
from ebm_lab.core.interfaces import Batch, Turn
from ebm_lab.core.registry import build
from ebm_lab.objectives.lsd import stein_operator
from tests.helpers import Points, covariance, exact_sample, gaussian_energy

L2 = 0.7


def gaussians(d, generator):
    """(points of covariance S exactly, S, energy of precision P, P), all around 0."""
    cov, precision = covariance(d, generator), covariance(d, generator)
    x = exact_sample(torch.zeros(d).double(), cov, 500, generator)
    return x, cov, gaussian_energy(torch.zeros(d).double(), precision), precision


def lsd(energy, data, generator, **more):
    values = compose_config(["objective=lsd", "dataset=two_moons"])["objective"]
    values |= {"trace": "exact", "data_noise": 0.0, "l2": L2, "hidden": [8], "adds_score": False, **more}
    objective = build("objective", values, energy=energy, dataset=data, generator=generator)
    objective.critic.double()
    return objective


def assert_slope_of_the_fisher_divergence(energy, x, cov):
    """The gradient that the energy holds is that of D_F / (2 l2)."""
    mine = energy.factor.grad.clone()
    energy.zero_grad()
    s = score(energy, x, create_graph=True)
    (0.5 * flat_sum((s + x @ torch.linalg.inv(cov)) ** 2).mean() / (2 * L2)).backward()
    torch.testing.assert_close(mine.tril(), energy.factor.grad.tril())


def test_the_best_critic_is_the_difference_of_the_scores_and_its_value_the_fisher_divergence(generator):
    """f = A x with A free: of E_p[A f] - l2 E_p|f|^2 the gradient in A vanishes at (S^-1 - P) / (2 l2), where
    E_p[A f] = 2 l2 E_p|f|^2 = D_F / l2; a score s = -P x of data N(0, S) has 2 D_F = tr (P - S^-1) S (P - S^-1)."""
    x, cov, energy, precision = gaussians(3, generator)
    off = torch.linalg.inv(cov) - precision
    a = (off / (2 * L2)).requires_grad_(True)
    values, square = stein_operator(score(energy, x), lambda y: y @ a.T, x)
    (values.mean() - L2 * square.mean()).backward()
    assert float(a.grad.abs().max()) < 1e-12
    d_f = 0.5 * float((off @ cov @ off).trace())
    assert float((values.mean() - L2 * square.mean()).detach()) == pytest.approx(d_f / (2 * L2))
    assert float(values.mean().detach()) == pytest.approx(2 * L2 * float(square.mean().detach()))


def test_in_one_dimension_by_hand(generator):
    """E = a x^2 / 2, f = w x, data of variance s: A f = -a w x^2 + w, with the best w = (1 - a s) / (2 l2 s)."""
    a, s, w = 0.9, 1.7, torch.tensor(0.3).double()
    x = exact_sample(torch.zeros(1).double(), s * torch.eye(1).double(), 50, generator)
    values, square = stein_operator(-a * x, lambda y: w * y, x)
    torch.testing.assert_close(values, w * (1 - a * x[:, 0] ** 2))
    torch.testing.assert_close(square, w**2 * x[:, 0] ** 2)
    best = (1 - a * s) / (2 * L2 * s)
    values, square = stein_operator(-a * x, lambda y: best * y, x)
    assert float((values.mean() - L2 * square.mean()).detach()) == pytest.approx(s * (1 / s - a) ** 2 / (4 * L2))


def test_hutchinson_s_trace_is_unbiased(generator):
    """f = A x: v' A v over Gaussian v has the mean tr A and the variance 2 |sym A|^2."""
    a = torch.randn(3, 3, generator=generator).double()
    x, n = torch.randn(1, 3, generator=generator).double().expand(20_000, 3), 20_000
    v = torch.randn(n, 3, generator=generator).double()
    s = torch.zeros_like(x)
    exact, noisy = (stein_operator(s, lambda y: y @ a.T, x, w)[0] for w in (None, v))
    torch.testing.assert_close(exact.detach(), a.trace().expand(n))
    sym = 0.5 * (a + a.T)
    assert abs(float((noisy.mean() - a.trace()).detach())) < 5 * math.sqrt(2 * float(sym.square().sum()) / n)


def test_with_the_best_critic_the_energy_follows_the_fisher_divergence(generator):
    """grad_theta E_p[s . f] at f = (s - s_p) / (2 l2) is grad_theta D_F / (2 l2); here in the precision's factor."""
    x, cov, energy, precision = gaussians(2, generator)
    objective = lsd(energy, Points(x), generator)
    off = torch.linalg.inv(cov) - precision
    objective.c = lambda y: y @ off.T / (2 * L2)
    objective(Batch(x), Turn(("energy",))).value.backward()
    assert_slope_of_the_fisher_divergence(energy, x, cov)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("adds_score", [False, True])
def test_each_turn_has_its_loss_and_moves_its_player(adds_score, trace, generator):
    x, _, energy, _ = gaussians(2, generator)
    objective = lsd(energy, Points(x), generator, critic_steps=3, adds_score=adds_score, trace=trace)
    movers = [objective.turn(step).movers for step in range(1, 9)]
    assert movers == 2 * [*3 * [("critic",)], ("energy",)]
    assert float(objective.c(x).detach().abs().max()) == 0, "the critic's network begins at 0"
    with torch.no_grad():
        objective.critic.net[-1].weight.normal_(generator=generator)
    own = {name: set(parameters) for name, parameters in objective.players().items()}
    for mover in ("energy", "critic"):
        objective.zero_grad()
        loss = objective(Batch(x), Turn((mover,)))
        loss.value.backward()
        assert {p for p in objective.parameters() if p.grad is not None} <= own[mover]
        assert ("loss" in loss.metrics) == (mover == "energy") and ("stein" in loss.metrics) == (mover == "critic")
        assert loss.grad_evals == 500 * (2 if mover == "energy" else 1)
        assert not any(value.requires_grad for value in loss.metrics.values())

    def f(y):
        return objective.c(y) + (score(energy, y, create_graph=True) / (2 * L2) if adds_score else 0)

    objective.zero_grad()
    state = generator.get_state()
    both = objective(Batch(x))
    generator.set_state(state)
    v = None if trace == "exact" else x.new_empty(x.shape).normal_(generator=generator)
    torch.testing.assert_close(objective.f(x), f(x))
    assert float(both.value.detach()) == pytest.approx(float(both.metrics["loss"] + both.metrics["loss_critic"]))
    values, square = (y.detach() for y in stein_operator(score(energy, x), f, x, v))
    assert float(both.metrics["critic_ratio"]) == pytest.approx(float(values.mean() / (2 * L2 * square.mean())))
    assert float(both.metrics["loss_critic"]) == pytest.approx(float(L2 * square.mean() - values.mean()))
    assert float(both.metrics["loss"]) == pytest.approx(float(flat_sum(score(energy, x) * f(x)).mean().detach()))


def test_with_the_score_added_the_critic_learns_the_score_of_the_data(generator):
    """f = A x + s / (2 l2): the gradient in A is that of l2 |A x|^2 - tr A, which vanishes at S^-1 / (2 l2), minus the
    data's score, for every model; there the value is that of the best critic."""
    x, cov, _, _ = gaussians(3, generator)
    best, other = torch.linalg.inv(cov) / (2 * L2), torch.randn(3, 3, generator=generator).double()
    for model in (torch.eye(3).double(), covariance(3, generator)):
        s, added = -x @ model, (-x @ model / (2 * L2), -model.trace().expand(len(x)) / (2 * L2))
        for at in (best, other):
            a = at.clone().requires_grad_(True)
            values, square = stein_operator(s, lambda y, a=a: y @ a.T, x, added=added)
            (L2 * square.mean() - values.mean()).backward()
            torch.testing.assert_close(a.grad, 2 * L2 * at @ cov - torch.eye(3).double())
            if at is best:
                off = torch.linalg.inv(cov) - model
                d_f = 0.5 * float((off @ cov @ off).trace())
                assert float((values.mean() - L2 * square.mean()).detach()) == pytest.approx(d_f / (2 * L2))


def test_with_the_score_added_the_energy_follows_the_fisher_divergence(generator):
    """At c = -s_p / (2 l2), as above; the critic's own dependence on the energy counts as fixed."""
    x, cov, energy, _ = gaussians(2, generator)
    objective = lsd(energy, Points(x), generator, adds_score=True)
    objective.c = lambda y: y @ torch.linalg.inv(cov) / (2 * L2)
    objective(Batch(x), Turn(("energy",))).value.backward()
    assert_slope_of_the_fisher_divergence(energy, x, cov)


def test_the_critic_is_in_the_unit_of_a_score(generator):
    """Points 100 times as wide: the same network gives a hundredth of f, so that A f and |f|^2 scale alike."""
    x = torch.randn(500, 2, generator=generator).double()
    seen = []
    for wide in (1.0, 100.0):
        objective = lsd(gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), Points(wide * x), generator)
        with torch.no_grad():
            for p in objective.critic.net.parameters():
                p.fill_(0.1)
        seen.append(wide * objective.f(wide * x))
    torch.testing.assert_close(*(f.detach() for f in seen), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e7])
def test_the_critic_s_ratio_is_1_at_the_best_critic_in_every_unit(unit, generator):
    x, cov, _, precision = gaussians(2, generator)
    off = torch.linalg.inv(cov) - precision
    made = lsd(gaussian_energy(torch.zeros(2).double(), precision / unit**2), Points(unit * x), generator)
    made.c = lambda y: y @ off.T / unit**2 / (2 * L2)
    loss = made(Batch(unit * x), Turn(("critic",)))
    assert float(loss.metrics["critic_ratio"]) == pytest.approx(1.0, rel=1e-6)


def test_noise_on_the_data_is_in_units_of_their_scale_and_what_the_loss_sees(generator):
    data = Points(50 * torch.randn(500, 2, generator=generator).double())
    objective = lsd(gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), data, generator, data_noise=0.2)
    assert objective.sees_within() == objective.data_noise == pytest.approx(0.2 * data.scale)
