"""Likelihood of discrete data: exact by sums over all points, else by samples of two laws, against closed forms."""

import math
from typing import Any, Literal

import pytest
import torch

from ebm_lab.core.discrete import Sites
from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.base import BaseLaw
from ebm_lab.distributions.product import ProductBase
from ebm_lab.distributions.table import TableLaw
from ebm_lab.evaluation._baselines import independent
from ebm_lab.evaluation._bits_per_dim import PIXELS
from ebm_lab.evaluation._importance_of_sites import mixed_samples, weigh_sites
from ebm_lab.evaluation.likelihood import Likelihood
from tests.energies.test_discrete import known_rbm
from tests.helpers import Discrete, Points


class Law(Dataset):
    """Draws of a known law of bits or categories, in float64."""

    def __init__(self, law: Any, n: int = 2000, one_hot: bool = False, bounds: tuple[float, float] | None = None):
        g = torch.Generator().manual_seed(0)
        self.train, self.val, self.test = (law.sample(n, g).double() for _ in range(3))
        self.law, self.space, self.bounds = law, "categorical" if one_hot else "binary", bounds
        self.own = law

    def log_prob(self, x):
        return self.own.log_prob(x)


def view(energy, data, split: Literal["val", "test"] = "test", **more):
    settings = {"sampler": None, "count": 64, "steps": 10, "generator": torch.Generator().manual_seed(1), **more}
    return EvalView(energy, data, split, **settings)


def random_table(shape=(2, 2), support=16):
    """A random law of 4 bits with mass at the first points only."""
    w = torch.randn(16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return TableLaw(Sites(shape), torch.where(torch.arange(16) < support, w, -torch.inf))


def test_few_points_are_summed_over():
    """Everything by hand from the two tables of 16 probabilities."""
    rbm, law = known_rbm(), random_table((4,))
    data = Law(law)
    report = Likelihood(cells=10)(view(rbm, data))
    m, e = report.metrics, rbm(torch.cat(list(Sites((4,)).every(data.train)))).detach()
    log_z = float(torch.logsumexp(-e, 0))
    p, log_q = law.probabilities, -e - log_z
    assert m["log_z"] == pytest.approx(4.8979962, abs=5e-8)
    assert m["kl_forward"] == pytest.approx(float((p * (p.log() - log_q)).sum()), abs=1e-12)
    assert m["kl_reverse"] == pytest.approx(float((log_q.exp() * (log_q - p.log())).sum()), abs=1e-12)
    assert m["kl_forward_se"] == m["kl_reverse_se"] == 0 and "support_mass" not in m
    nll = float(rbm(data.test).detach().mean()) + log_z
    assert m["nll"] == pytest.approx(nll, abs=1e-12)
    assert m["bits_per_dim"] == pytest.approx(nll / (4 * math.log(2)), abs=1e-12)
    assert m["nll_gap"] == pytest.approx(nll + float(law.log_prob(data.test).mean()), abs=1e-12)
    assert abs(m["nll_gap"] - m["kl_forward"]) < 4 * m["nll_gap_se"], "it estimates the divergence"
    assert not {"nll_gaussian", "nll_mixture", "nll_raw", "log_z_change", "log_z_ess"} & m.keys() and not report.notes


def test_the_law_s_own_energy_has_no_gap():
    law = random_table((4,))
    m = Likelihood(cells=10)(view(lambda x: 3 - law.log_prob(x), Law(law))).metrics
    assert [m["kl_forward"], m["kl_reverse"], m["nll_gap"]] == pytest.approx([0, 0, 0], abs=1e-12)
    assert m["log_z"] == pytest.approx(-3, abs=1e-12)


def test_mass_on_the_support_where_the_law_has_no_mass_elsewhere():
    """KL(q || p) is infinite, and left out without a word; the model's mass on the first 5 points stands in its
    place."""
    rbm, law = known_rbm(), random_table((4,), support=5)
    report = Likelihood(cells=10)(view(rbm, Law(law))).finite("likelihood")
    q = torch.softmax(-rbm(torch.cat(list(Sites((4,)).every(rbm.b)))).detach(), 0)
    p = law.probabilities
    assert report.metrics["support_mass"] == pytest.approx(float(q[:5].sum()), abs=1e-12)
    assert report.metrics["kl_forward"] == pytest.approx(float((p * (p / q).log())[:5].sum()), abs=1e-12)
    assert not {"kl_reverse", "kl_reverse_se"} & report.metrics.keys() and not report.notes


def test_independent_sites_stand_beside_it():
    """Frequencies with one more point of each value, so that a bit that was always 0 has probability 1 / (n + 2)."""
    x = torch.tensor([[0.0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]]).double()
    law = independent(Discrete(x))
    assert law is not None
    p = torch.tensor([1 / 6, 4 / 6, 4 / 6]).double()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    torch.testing.assert_close(law.log_prob(x), expected)
    categories = torch.eye(3)[torch.tensor([[0, 1], [0, 2], [0, 1]])].mT
    law = independent(Discrete(categories, one_hot=True))
    assert law is not None
    assert float(law.log_prob(categories[:1].double())) == pytest.approx(math.log(4 / 6 * 3 / 6), abs=1e-12)
    table = Law(random_table((4,)))
    m = Likelihood(cells=10)(view(known_rbm(), table)).metrics
    own = independent(table)
    assert own is not None
    assert m["nll_independent"] == pytest.approx(-float(own.log_prob(table.test).mean()), abs=1e-12)
    assert m["nll_above_independent"] == pytest.approx(m["nll"] - m["nll_independent"], abs=1e-12)


def test_images_of_bits_have_bits_per_pixel_and_no_word_on_grey_levels():
    data = Law(random_table((1, 2, 2)), bounds=(0.0, 1.0))
    report = Likelihood(cells=10)(view(lambda x: x.flatten(1).sum(1), data))
    assert report.metrics["bits_per_dim"] == pytest.approx(report.metrics["nll"] / (4 * math.log(2)), abs=1e-12)
    assert PIXELS not in report.notes


def product(logits):
    return BaseLaw(ProductBase(logits, one_hot=False))


def test_larger_spaces_are_sampled_from_the_law_and_from_independent_sites():
    """Two laws of 30 independent bits: log Z of the model is 2, and KL(p || q) the sum of those of the bits."""
    g = torch.Generator().manual_seed(2)
    a = torch.randn(30, generator=g).double()
    b = a + 0.2 * torch.randn(30, generator=g).double()
    data, p = Law(product(a)), a.sigmoid()
    m = Likelihood(cells=10)(view(lambda x: -2 - product(b).log_prob(x), data)).metrics
    kl = float((p * (a - b)).sum() - (torch.nn.functional.softplus(a) - torch.nn.functional.softplus(b)).sum())
    assert abs(m["log_z"] - 2) < 4 * m["log_z_se"] and m["log_z_se"] < 0.02
    assert abs(m["kl_forward"] - kl) < 4 * m["kl_forward_se"] and kl > 5 * m["kl_forward_se"]


class EvenBlocks:
    """Uniform over bits whose blocks of 6 have an even sum each: 24 bits, 2^20 points, each bit 1 half of the time."""

    def sample(self, n, generator):
        x = torch.empty(n, 4, 6).bernoulli_(0.5, generator=generator)
        x[:, :, 5] = x[:, :, :5].sum(2) % 2
        return x.flatten(1)

    def log_prob(self, x):
        even = (x.view(-1, 4, 6).sum(2) % 2 == 0).all(1)
        return torch.where(even, -20 * math.log(2), -torch.inf).double()


def test_mass_that_the_law_s_samples_never_meet_is_not_lost():
    """A model that is uniform over 16 times as many points has equal weights at all of the law's samples, which would
    give it the truth's own likelihood; its gap is 4 log 2."""
    data = Law(EvenBlocks())
    m = Likelihood(cells=10)(view(lambda x: x.sum(1) * 0, data)).metrics
    assert abs(m["log_z"] - 24 * math.log(2)) < 4 * m["log_z_se"] + 1e-3
    assert abs(m["kl_forward"] - 4 * math.log(2)) < 4 * m["kl_forward_se"] + 1e-3


def test_the_samples_are_the_same_at_every_call_and_the_law_may_have_no_sampler():
    data = Law(product(torch.zeros(30).double()))
    first, second = mixed_samples(data), mixed_samples(data)
    assert torch.equal(first.x, second.x) and len(first.x) == 20_000 and len(first.log_p) == 10_000
    data.law = None
    few = mixed_samples(data)
    assert torch.equal(few.x[:2000], data.val) and len(few.log_p) == 2000
    found = weigh_sites(lambda x: x.sum(1) * 0, few)
    assert abs(found.log_z - 30 * math.log(2)) < 4 * found.se + 1e-3


def test_where_nothing_is_known_it_says_so_in_one_line():
    data = Discrete((torch.rand(50, 64) < 0.5).float())
    line = reason_against(Likelihood(cells=10), view(lambda x: x.sum(1), data))
    assert line == (
        "log Z has no formula here, and 64 sites of 2 values have too many states to sum over; evaluation=ais "
        "estimates it"
    )

    class Counts(Points):
        """Whole numbers: discrete, and neither bits nor one-hot."""

        offers = frozenset({"discrete"})

    line = reason_against(Likelihood(cells=10), view(lambda x: x.sum(1), Counts(torch.arange(6.0).view(3, 2))))
    assert line == "log Z has no formula here, and only bits and one-hot categories could be summed over"
