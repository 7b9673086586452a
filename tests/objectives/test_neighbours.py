"""Losses on neighbours of discrete points against enumeration: known values, minimisers, identities and bad input."""

import math

import pytest
import torch
from torch import Tensor, nn

from ebm_lab.core.discrete import Sites, log_odds
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import KnowsDerivatives
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives import _neighbours as n
from ebm_lab.objectives._discrete_kernels import absorbing_discrepancy, displaced
from ebm_lab.objectives.concrete_score import ConcreteScore
from ebm_lab.objectives.ed import ED, energy_discrepancy
from ebm_lab.objectives.pseudo_likelihood import PseudoLikelihood
from ebm_lab.objectives.ratio_matching import RatioMatching
from ebm_lab.objectives.score_entropy import ScoreEntropy
from tests.helpers import Discrete

BITS, CATEGORIES = Sites((3,)), Sites((3, 2), 3, True)
LOG_P = torch.tensor([0.3, -0.5, 0.2, 0.1, -0.4, 0.6, -0.2, 0.5], dtype=torch.float64)
E_M = torch.tensor([0, 0.4, -0.3, 0.2, 0.5, -0.1, 0.3, 0], dtype=torch.float64)
PHIS = {
    "pseudo_likelihood": (n.pseudo_likelihood, 1.951323, 1.991713, 2.079442),
    "ratio_matching": (n.ratio_matching, 0.687828, 0.706694, 0.75),
    "mpf": (n.probability_flow, 2.869863, 2.911699, 3.0),
    "score_entropy": (n.score_entropy, -0.528997, -0.355534, 0.0),
    "concrete_score": (n.concrete_score, -0.601582, -0.374670, 0.0),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(KnowsDerivatives):
    """An energy for each state of `sites`, as parameters."""

    def __init__(self, sites: Sites, energies: Tensor) -> None:
        super().__init__()
        self.sites, self.energies = sites, nn.Parameter(energies.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.energies[self.sites.number(x)]


def points(sites: Sites) -> Tensor:
    return torch.cat(list(sites.every(torch.zeros(1).double())))


def full_loss(name: str, table: Table, p: Tensor) -> Tensor:
    """The loss with the expectation over p enumerated."""
    x, sites = points(table.sites), table.sites
    odds = log_odds(table, x, sites)
    return p @ n.compare_neighbours(PHIS[name][0], odds, sites.moves(x))


@pytest.mark.parametrize("name", PHIS)
def test_losses_have_the_known_values_on_three_bits(name):
    p = LOG_P.softmax(0)
    for energies, known in zip((-LOG_P, E_M, torch.zeros(8).double()), PHIS[name][1:], strict=True):
        assert float(full_loss(name, Table(BITS, energies), p).detach()) == pytest.approx(known, abs=5e-7)


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
@pytest.mark.parametrize("name", PHIS)
def test_the_gradient_at_the_data_s_law_is_zero_and_elsewhere_it_is_not(name, sites):
    log_p = LOG_P if sites is BITS else torch.randn(9, generator=generator(1)).double()
    p = log_p.softmax(0)
    for shift, is_zero in ((0.0, True), (0.3, False)):
        energies = -log_p.clone()
        energies[2] += shift
        table = Table(sites, energies)
        (grad,) = torch.autograd.grad(full_loss(name, table, p), table.energies)
        assert (float(grad.abs().max()) < 1e-14) is is_zero


@pytest.mark.parametrize("name", PHIS)
def test_the_minimiser_is_the_data_s_law(name):
    """By Newton-like L-BFGS from zero energies, on bits."""
    p, table = LOG_P.softmax(0), Table(BITS, torch.zeros(8).double())
    optimiser = torch.optim.LBFGS(
        [table.energies], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = full_loss(name, table, p)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = (-table.energies.detach()).softmax(0)
    torch.testing.assert_close(found, p, rtol=0, atol=1e-6)


def test_concrete_score_on_one_ternary_site_recovers_the_law():
    """Without its middle terms the loss would fit (.638, .273, .089) to (.6, .3, .1)."""
    p, sites = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), Sites((3, 1), 3, True)
    table = Table(sites, -p.log())
    (grad,) = torch.autograd.grad(full_loss("concrete_score", table, p), table.energies)
    assert float(grad.abs().max()) < 1e-14
    wrong = n.continued(lambda d: d.expm1().square() / 2 - d.neg().expm1(), lambda d: d)
    x = points(sites)
    bad = p @ n.compare_neighbours(wrong, log_odds(table, x, sites), sites.moves(x))
    (grad,) = torch.autograd.grad(bad, table.energies)
    assert grad.tolist() == pytest.approx([0.8, -0.1, -0.7], abs=1e-12)


def test_pseudo_likelihood_of_categories_is_that_of_the_conditional_laws():
    sites, log_p = CATEGORIES, torch.randn(9, generator=generator(2)).double()
    table, x = Table(sites, -log_p), points(sites)
    joint = log_p.softmax(0).view(3, 3)
    first, second = joint / joint.sum(0), joint / joint.sum(1, keepdim=True)
    known = -(first.log() + second.log()).flatten()
    values = n.log_pseudo_likelihood(log_odds(table, x, sites), sites, sites.count)
    torch.testing.assert_close(values.detach(), known, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mpf", "score_entropy", "concrete_score"])
def test_exponential_losses_continue_with_their_slope(name):
    """Value and slope are continuous at the cap, and the slope stays beyond it."""
    phi = PHIS[name][0]
    for side in (-1.0, 1.0):
        d = torch.tensor([side * (n.CAP - 1e-6), side * (n.CAP + 1e-6), side * (n.CAP + 5)]).double()
        d.requires_grad_(True)
        value = phi(d)
        (slope,) = torch.autograd.grad(value.sum(), d)
        assert float(slope[2].detach()) > 0
        torch.testing.assert_close(slope[0], slope[1], rtol=1e-5, atol=0)
        torch.testing.assert_close(slope[2], slope[1], rtol=1e-12, atol=0)
        torch.testing.assert_close(value[2], value[1] + slope[1] * (d[2] - d[1]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
def test_losses_on_some_sites_have_the_mean_of_the_whole(sites):
    """Averaged over the choice of a site, each of them as likely."""
    table = Table(sites, torch.randn(sites.states, generator=generator(3)).double())
    data = Discrete(points(sites), sites.one_hot)
    for cls in (PseudoLikelihood, RatioMatching, ScoreEntropy, ConcreteScore):
        whole = cls(table, data, generator(), sites=None)(Batch(data.train)).value
        values = []
        for i in range(sites.count):
            some = cls(table, data, generator(), sites=1)
            which = torch.tensor([i]) if not sites.one_hot else sites.count * torch.arange(3) + i
            values.append(n.neighbour_loss(table, data.train, sites, some.values, some.exponential, which).value)
        torch.testing.assert_close(torch.stack(values).mean(), whole, rtol=0, atol=1e-12)


def bernoulli_discrepancy(table: Table, p: Tensor, eps: float) -> Tensor:
    """E_p E - E U with U enumerated, for flips of probability eps."""
    x = points(table.sites)
    apart = torch.cdist(x, x, p=1)
    q = (eps**apart) * ((1 - eps) ** (3 - apart))
    return p @ table.energies + (p @ q) @ (q @ (-table.energies).exp()).log()


def test_discrete_discrepancy_is_the_likelihood_at_one_half_and_score_entropy_at_zero():
    p = LOG_P.softmax(0)
    truth, model = Table(BITS, -LOG_P), Table(BITS, E_M)
    kl = float((p * (p.log() - (-E_M).log_softmax(0))).sum())
    assert kl == pytest.approx(0.0266246, abs=5e-8)

    def gap(eps: float) -> float:
        return float((bernoulli_discrepancy(model, p, eps) - bernoulli_discrepancy(truth, p, eps)).detach())

    assert gap(0.5) == pytest.approx(kl, abs=1e-12)
    for eps, known in {0.2: 0.098131, 0.1: 0.126604, 0.05: 0.146823, 0.025: 0.159172, 0.0125: 0.166049}.items():
        assert gap(eps) / eps == pytest.approx(known, abs=5e-7)
    limit = PHIS["score_entropy"][2] - PHIS["score_entropy"][1]
    assert 2 * gap(0.0125 / 2) / (0.0125 / 2) - gap(0.0125) / 0.0125 == pytest.approx(limit, abs=2e-4)


def test_the_loss_of_samples_estimates_the_discrepancy():
    """With w = 0 and 4,000 samples for each of 4,000 copies of every state; the mean within 4.5 standard errors."""
    p, model, eps, m, copies = LOG_P.softmax(0), Table(BITS, E_M), 0.2, 2000, 500
    x = points(BITS).repeat(copies, 1)
    gen = generator(4)
    y = displaced(x, BITS, "bernoulli", eps, gen)
    around = displaced(y.repeat(m, 1), BITS, "bernoulli", eps, gen).view(m, len(x), 3)
    with torch.no_grad():
        values = energy_discrepancy(model, x, around, 0.0)[0].view(copies, 8)
        found, error = float((values.mean(0) * p).sum()), float((values.var(0) / copies * p**2).sum().sqrt())
        known = float(bernoulli_discrepancy(model, p, eps))
    assert abs(found - known) < 4.5 * error + 1 / m  # log of a mean of m is biased by less than 1 / m here


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
def test_absorbing_discrepancy_is_the_pseudo_likelihood(sites):
    table = Table(sites, torch.randn(sites.states, generator=generator(5)).double())
    x = points(sites)
    pl = n.log_pseudo_likelihood(log_odds(table, x, sites), sites, sites.count)
    whole = absorbing_discrepancy(table, x, sites, torch.arange(sites.changes))
    torch.testing.assert_close(whole, pl / sites.count - math.log(sites.categories), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sites", [BITS, CATEGORIES], ids=["bits", "categories"])
def test_kernels_displace_with_the_stated_probabilities(sites):
    """Of 60,000 copies of one point: each neighbour's share within 4.5 standard errors."""
    x, count = points(sites)[1:2], 60_000
    many = x.expand(count, *x.shape[1:])
    for kernel, eps in (("bernoulli", 0.3), ("grid", 0.3)):
        y = displaced(many, sites, kernel, eps, generator(6))
        share = torch.bincount(sites.number(y), minlength=sites.states).double() / count
        apart = (points(sites) - x).abs().flatten(1).sum(1) / (2 if sites.one_hot else 1)
        others = sites.categories - 1
        if kernel == "bernoulli":
            known = (eps / others) ** apart * (1 - eps) ** (sites.count - apart)
        else:
            known = torch.where(apart == 1, 1 / (sites.count * others), 0.0).double()
        assert bool(((share - known).abs() <= 4.5 * (known * (1 - known) / count).sqrt() + 1e-12).all())


def test_groups_that_no_single_change_connects_are_counted_and_said():
    bars = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).float().repeat(10, 1)
    assert n.unseen_groups(bars, Sites((4,))) == (4, 4)
    linked = torch.cat([bars, torch.tensor([[1.0, 0, 0, 0]]).repeat(10, 1)])
    assert n.unseen_groups(linked, Sites((4,))) == (3, 5)
    objective = PseudoLikelihood(nn.Identity(), Discrete(bars), generator(), sites=None)
    assert "4 different points in 4 groups" in objective.notes[0]
    spread_out = (torch.rand(500, 40, generator=generator(7)) < 0.5).float()
    assert n.unseen(Discrete(spread_out), Sites((40,))) == []


def test_a_kernel_for_other_data_is_refused():
    settings = {"blur": 0.5, "flip": 0.1, "samples": 4, "w": 1.0, "data_noise": 0.0}
    bits = Discrete(points(BITS).float())
    with pytest.raises(UserError, match=r"objective.kernel=gaussian: the data are binary; choose bernoulli"):
        ED(nn.Identity(), bits, generator(), kernel="gaussian", **settings)
    with pytest.raises(UserError, match=r"objective.data_noise=0.1: the data are discrete"):
        ED(nn.Identity(), bits, generator(), kernel="grid", **{**settings, "data_noise": 0.1})
