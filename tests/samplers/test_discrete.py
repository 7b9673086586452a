"""Discrete samplers against full transition matrices on three bits and on two sites of three categories.

A kernel is read from the sampler itself: every draw is replaced by each of its outcomes in turn, with the probability
that the sampler gave it, and every Metropolis test by its probability of acceptance.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from ebm_lab.core.discrete import Draws, Sites
from ebm_lab.core.functional import KnowsDerivatives
from ebm_lab.samplers import _discrete_langevin, _one_change
from ebm_lab.samplers.block_gibbs import BlockGibbs
from ebm_lab.samplers.dmala import DMALA
from ebm_lab.samplers.dula import DULA
from ebm_lab.samplers.gibbs import Gibbs
from ebm_lab.samplers.gwg import GWG
from ebm_lab.samplers.locally_balanced import LocallyBalanced
from ebm_lab.samplers.replica_exchange import ReplicaExchange
from tests.helpers import Discrete

BITS, CATEGORIES = Sites((3,)), Sites((3, 2), 3, True)
E = torch.tensor([0, 0.4, -0.3, 0.2, 0.5, -0.1, 0.3, 0], dtype=torch.float64)
E9 = torch.tensor([0, 0.7, -0.4, 0.3, 0.9, -0.6, 0.2, -1.1, 0.5], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(KnowsDerivatives):
    """The multilinear extension of a table of energies: sum over states of E(s) prod_i x_{s_i, i}."""

    def __init__(self, sites: Sites, energies: Tensor) -> None:
        super().__init__()
        self.sites, self.energies = sites, energies
        self.points = torch.cat(list(sites.every(energies)))

    def forward(self, x: Tensor) -> Tensor:
        p = self.points.flatten(1)
        if self.sites.one_hot:
            k, d = self.sites.categories, self.sites.count
            factors = (x.flatten(1)[:, None] * p).view(len(x), len(p), k, d).sum(2)
        else:
            flat = x.flatten(1)[:, None]
            factors = flat * p + (1 - flat) * (1 - p)
        return factors.prod(2) @ self.energies


def data_of(sites: Sites) -> Discrete:
    """A data set of all points."""
    return Discrete(torch.cat(list(sites.every(E))), sites.one_hot)


CASES = [pytest.param(Table(BITS, E), id="bits"), pytest.param(Table(CATEGORIES, E9), id="categories")]


def law(table: Table) -> Tensor:
    return (-table.energies).softmax(0)


def one_change_kernel(sampler, table: Table, monkeypatch) -> Tensor:
    """P (S, S) of one step of a OneChange sampler."""
    sites, points = table.sites, table.points
    s, m = len(points), sites.changes
    seen: dict[str, Tensor] = {}

    def draw(log_w, generator):
        seen["q"] = log_w.exp()
        return torch.arange(m).repeat(s)

    def accept(log_ratio, generator):
        seen["a"] = log_ratio.clamp_max(0).exp()
        return torch.ones_like(log_ratio, dtype=torch.bool)

    monkeypatch.setattr(_one_change, "draw", draw)
    monkeypatch.setattr(_one_change, "accept", accept)
    x = points.repeat_interleave(m, 0)
    end = sampler(table, x, {}, generator=generator()).x
    chance = seen["q"][torch.arange(s * m), torch.arange(m).repeat(s)] * seen["a"].nan_to_num(0.0)
    p = torch.zeros(s, s, dtype=torch.float64)
    p.index_put_((sites.number(x), sites.number(end)), chance, accumulate=True)
    return p + torch.diag(1 - p.sum(1))


def langevin_kernel(sampler, table: Table, monkeypatch) -> Tensor:
    """P (S, S) of one move of dula or dmala."""
    points = table.points
    s, seen = len(points), {}
    x, to = points.repeat_interleave(s, 0), points.repeat(s, *[1] * (points.ndim - 1))

    def bits(self, logits):
        flips = (x - to).abs()
        seen["q"] = torch.where(flips > 0, logits.sigmoid(), 1 - logits.sigmoid()).flatten(1).prod(1)
        return flips

    def categories(self, logits):
        seen["q"] = (logits.softmax(1) * to).sum(1).flatten(1).prod(1)
        return to

    def accept(log_ratio, generator):
        seen["a"] = log_ratio.clamp_max(0).exp()
        return torch.ones_like(log_ratio, dtype=torch.bool)

    monkeypatch.setattr(Draws, "bits", bits)
    monkeypatch.setattr(Draws, "categories", categories)
    monkeypatch.setattr(_discrete_langevin, "accept", accept)
    sampler(table, x, {}, generator=generator())
    p = (seen["q"] * seen.get("a", torch.ones(s * s))).view(s, s)
    return p + torch.diag(1 - p.sum(1))


def stationary(p: Tensor) -> Tensor:
    """The left eigenvector of eigenvalue 1, by a linear system."""
    a = p.T - torch.eye(len(p)).double()
    a[-1] = 1
    return torch.linalg.solve(a, torch.eye(len(p)).double()[-1])


def gap(p: Tensor, pi: Tensor) -> tuple[float, float]:
    """1 - max |lambda| and 1 - lambda_2 of a reversible kernel."""
    root = pi.sqrt()
    values = torch.linalg.eigvalsh(root[:, None] * p / root)
    return 1 - max(abs(float(values[0])), float(values[-2])), 1 - float(values[-2])


def samplers(sites: Sites):
    data = data_of(sites)
    yield GWG(data, steps=1)
    yield from (LocallyBalanced(data, steps=1, balance=g) for g in ("sqrt", "barker", "min"))


@pytest.mark.parametrize("table", CASES)
def test_single_changes_leave_the_law_exactly_invariant(table, monkeypatch):
    pi = law(table)
    for sampler in samplers(table.sites):
        p = one_change_kernel(sampler, table, monkeypatch)
        torch.testing.assert_close(pi @ p, pi, rtol=0, atol=1e-14)
        torch.testing.assert_close(pi[:, None] * p, (pi[:, None] * p).T, rtol=0, atol=1e-14)  # detailed balance
        assert float((p - torch.eye(len(p))).abs().max()) > 0.1  # it moves


def test_gwg_has_the_known_gap(monkeypatch):
    table = Table(BITS, E)
    p = one_change_kernel(GWG(data_of(BITS), steps=1), table, monkeypatch)
    absolute, relative = gap(p, law(table))
    assert absolute == pytest.approx(0.2068, abs=5e-5) and relative == pytest.approx(0.4486, abs=5e-5)


def test_guessed_odds_are_exact_for_a_multilinear_energy(monkeypatch):
    """gwg and the locally balanced sampler with sqrt then propose the same."""
    for table in (Table(BITS, E), Table(CATEGORIES, E9)):
        data = data_of(table.sites)
        one = one_change_kernel(GWG(data, steps=1), table, monkeypatch)
        other = one_change_kernel(LocallyBalanced(data, steps=1, balance="sqrt"), table, monkeypatch)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("table", CASES)
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_dmala_leaves_the_law_exactly_invariant(table, alpha, monkeypatch):
    pi, p = law(table), langevin_kernel(DMALA(data_of(table.sites), steps=1, step_size=alpha), table, monkeypatch)
    torch.testing.assert_close(pi @ p, pi, rtol=0, atol=1e-14)
    if not table.sites.one_hot:
        known = {0.2: (0.1126, 0.2008), 1.0: (0.4948, 0.6542)}[alpha]
        moves = float((pi * (1 - p.diagonal())).sum())
        assert (gap(p, pi)[0], moves) == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize(
    ("alpha", "known"), [(1, 0.0833), (0.5, 0.0591), (0.25, 0.0260), (0.2, 0.0165), (0.125, 0.0039), (0.1, 0.0014)]
)
def test_dula_is_off_by_the_known_total_variation(alpha, known, monkeypatch):
    table = Table(BITS, E)
    p = langevin_kernel(DULA(data_of(BITS), steps=1, step_size=float(alpha)), table, monkeypatch)
    off = 0.5 * float((stationary(p) - law(table)).abs().sum())
    assert off == pytest.approx(known, abs=5e-5)


def test_a_category_whose_energy_is_no_number_is_never_drawn():
    """Logits 0, 1, nan: the shares are those of the first two, within 4 standard errors."""
    logits = torch.tensor([0.0, 1.0, torch.nan]).expand(10_000, 3)
    share = Draws(generator()).categories(logits).mean(0)
    p = 1 / (1 + math.e)
    assert share[2] == 0 and float(share[0]) == pytest.approx(p, abs=4 * (p * (1 - p) / 10_000) ** 0.5)


@pytest.mark.parametrize("table", CASES)
def test_gibbs_draws_each_site_from_its_conditional_law(table, monkeypatch):
    """The logits of every update are those of the enumerated law, and a sweep visits the sites in order."""
    sites, points, pi, seen = table.sites, table.points, law(table), []
    monkeypatch.setattr(Draws, "bits", lambda self, logits: seen.append(logits.sigmoid()) or torch.zeros_like(logits))

    def categories(self, logits):
        seen.append(logits.softmax(1))
        return nn.functional.one_hot(torch.zeros(len(logits), dtype=torch.int64), logits.shape[1]).to(logits)

    monkeypatch.setattr(Draws, "categories", categories)
    for i in range(sites.count):
        seen.clear()
        state = {"site": torch.tensor(i)}
        end = Gibbs(data_of(sites), steps=1, scan="sweep")(table, points, state, generator=generator())
        assert int(end.state["site"]) == (i + 1) % sites.count
        for x, chance, after in zip(points, seen[0], end.x, strict=True):
            m = [c * sites.count + i for c in range(sites.categories)] if sites.one_hot else [i]
            near = [sites.apply(x[None], torch.tensor([change])) for change in m]
            odds = torch.cat([pi[sites.number(z)] for z in near])
            if not sites.one_hot:
                odds = odds / (odds + pi[sites.number(x[None])])
                assert torch.equal(after, x)  # a flip was drawn nowhere
            else:
                odds = odds / odds.sum()
                assert torch.equal(after, near[0][0])  # category 0 was drawn everywhere
            torch.testing.assert_close(chance.view(-1), odds, rtol=0, atol=1e-14)


@pytest.mark.parametrize("table", CASES)
def test_random_scan_reaches_the_law(table):
    """20,000 chains of 40 updates each: every state's share within 4.5 standard errors."""
    pi, n = law(table), 20_000
    x = table.points[:1].expand(n, *table.points.shape[1:])
    end = Gibbs(data_of(table.sites), steps=40, scan="random")(table, x, {}, generator=generator(1)).x
    share = torch.bincount(table.sites.number(end), minlength=len(pi)).double() / n
    assert bool(((share - pi).abs() < 4.5 * (pi * (1 - pi) / n).sqrt()).all())


def test_block_gibbs_on_an_rbm_reaches_its_law_and_coupled_chains_meet():
    from tests.energies.test_discrete import known_rbm

    rbm, n = known_rbm(), 40_000
    points = torch.cat(list(Sites((4,)).every(rbm.b)))
    pi = (-rbm(points)).softmax(0).detach()
    x, y = torch.zeros(n, 4).double(), torch.ones(n, 4).double()
    end, other = BlockGibbs(steps=12).couple(rbm, x, y, {}, generator=generator(2))
    for z in (end.x, other):
        share = torch.bincount(Sites((4,)).number(z), minlength=16).double() / n
        assert bool(((share - pi).abs() < 4.5 * (pi * (1 - pi) / n).sqrt()).all())
    assert float((end.x == other).all(1).double().mean()) > 0.999


class Wells(KnowsDerivatives):
    """Eight bits with two modes, all zeros and all ones, of weights 1 : 3, and a barrier of some 7 nats between."""

    def forward(self, x: Tensor) -> Tensor:
        ones = x.flatten(1).sum(1)
        return ones * (8 - ones) * 0.45 - torch.log(torch.tensor(3.0).to(x)) * ones / 8


def test_replica_exchange_crosses_barriers_and_keeps_the_law():
    """2,000 chains, all from zeros: gwg stays there, and with hot replicas every number of ones has its probability
    within 4.5 standard errors. The hot replicas begin as copies of x, so that the first calls do not count."""
    sites, n = Sites((8,)), 2_000
    energy, data = Wells(), Discrete(torch.cat(list(sites.every(torch.zeros(1)))))
    points = torch.cat(list(sites.every(torch.zeros(1).double())))
    p = (-energy(points)).softmax(0)
    known = torch.zeros(9).double().index_add_(0, points.sum(1).long(), p)
    gwg = GWG(data, steps=10)
    alone = gwg(energy, torch.zeros(2000, 8), {}, generator=generator(3)).x
    assert float((alone.sum(1) > 4).double().mean()) < 0.05
    both = ReplicaExchange(steps=8, replicas=5, max_temperature=8.0, kernel=gwg)
    x, state, gen = torch.zeros(n, 8), {}, generator(4)
    for _ in range(12):
        chain = both(energy, x, state, generator=gen)
        x, state = chain.x, chain.state
    share = torch.bincount(x.sum(1).long(), minlength=9).double() / n
    assert bool(((share - known).abs() < 4.5 * (known * (1 - known) / n).sqrt()).all()), (share, known)
    assert 0.2 < float(chain.metrics["swap_acceptance"]) < 1


def test_replica_exchange_swaps_by_the_energies_at_both_temperatures(monkeypatch):
    """Two replicas, a kernel that stays where it is: the chance of the swap is that of the formula."""

    class Still(GWG):
        def __call__(self, energy, x, state, *, generator, differentiable=False):
            return super().__call__(energy, x, state, generator=generator)._replace(x=x, grad_evals=0)

    sites, table = BITS, Table(BITS, E)
    sampler = ReplicaExchange(steps=1, replicas=2, max_temperature=3.0, kernel=Still(data_of(sites), steps=1))
    x, hot = table.points[[1, 4]], table.points[[6, 2]]
    chain = sampler(table, x, {"hot": hot[None], "turn": torch.tensor(0)}, generator=generator(5))
    e, e_hot = E[[1, 4]], E[[6, 2]]
    known = ((1 - 1 / 3.0) * (e - e_hot)).clamp_max(0).exp().mean()
    assert float(chain.metrics["swap_1"]) == pytest.approx(float(known), abs=1e-12)
