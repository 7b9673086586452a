"""Sums over all points against closed forms: an RBM, an Ising torus, independent bits and categories."""

import math

import pytest
import torch

from ebm_lab.core.discrete import Sites, known_sites
from ebm_lab.distributions.enumeration import (
    at_all,
    divergence,
    energies,
    expectation,
    few_states,
    log_z_of,
)
from ebm_lab.distributions.lattice import LatticeLaw
from ebm_lab.energies.ising import Ising
from tests.energies.test_discrete import known_rbm
from tests.helpers import Discrete, Points

DOUBLE = torch.zeros((), dtype=torch.float64)


def test_an_rbm_has_the_known_log_z_and_means():
    """The sum over its hidden units gives the same log Z; the numbers are those of theory2, D2."""
    rbm, sites = known_rbm(), Sites((4,))
    e = energies(rbm, sites, DOUBLE)
    log_q = -e - log_z_of(e)
    assert log_z_of(e) == pytest.approx(4.8979962, abs=5e-8)
    assert log_z_of(e) == pytest.approx(float(rbm.exact_log_z().detach()), abs=1e-12)  # type: ignore[union-attr]
    assert float(e[-1]) == pytest.approx(-2.6022909, abs=5e-8)
    assert float(log_q[-1].exp()) == pytest.approx(0.1006903, abs=5e-8)
    mean = expectation(lambda x: x, log_q, sites, DOUBLE)
    assert mean.tolist() == pytest.approx([0.528318, 0.558947, 0.579384, 0.593803], abs=5e-7)


def test_the_ising_torus_has_the_known_log_z():
    """J = 0.1 between neighbours of the 4 x 4 torus; 65,536 points."""
    energy = Ising(Discrete(torch.eye(16)), l1=0.0, support=None).double()
    with torch.no_grad():
        energy.couplings.copy_(LatticeLaw((4, 4), 0.1, True).couplings)
    assert log_z_of(energies(energy, Sites((1, 4, 4)), DOUBLE)) == pytest.approx(11.7714704, abs=5e-8)


def test_independent_bits_in_several_parts():
    """2^17 points come in two parts: log Z = sum_i log(1 + exp(a_i)) and E x_i = sigmoid(a_i), exactly."""
    a = torch.linspace(-2, 2, 17).double()
    sites = Sites((17,))
    e = at_all(lambda x: -x @ a, sites, DOUBLE)
    assert len(e) == 2**17 and log_z_of(e) == pytest.approx(float(torch.nn.functional.softplus(a).sum()), abs=1e-12)
    mean = expectation(lambda x: x, -e - log_z_of(e), sites, DOUBLE)
    torch.testing.assert_close(mean, a.sigmoid(), atol=1e-12, rtol=0)


def test_independent_categories_and_their_divergences():
    """KL(p || q) of product laws is the sum of those of the sites; infinite where q has no mass and p has."""
    sites = Sites((3, 2, 2), 3, True)
    g = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 3, 2, 2, generator=g, dtype=torch.float64).log_softmax(1)
    p, q = (at_all(lambda x, law=law: (x * law).flatten(1).sum(1), sites, DOUBLE) for law in (log_p, log_q))
    assert len(p) == 81 and log_z_of(-p) == pytest.approx(0, abs=1e-12)
    assert divergence(p, q) == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-12)
    some = torch.where(torch.arange(81) < 40, p, -torch.inf).log_softmax(0)
    assert divergence(some, some) == 0 and divergence(p, some) == math.inf and math.isfinite(divergence(some, p))


def test_which_data_can_be_summed_over():
    def bits(d):
        return Discrete(torch.eye(d)[:5])

    def categories(d):
        return Discrete(torch.eye(3)[torch.zeros(4, d, dtype=torch.long)].mT, one_hot=True)

    assert few_states(bits(20)) == Sites((20,)) and few_states(bits(21)) is None
    assert known_sites(bits(21)) == Sites((21,))
    assert few_states(categories(12)) == Sites((3, 12), 3, True) and few_states(categories(13)) is None
    assert few_states(Points(torch.randn(5, 3))) is None

    class Counts(Points):
        """Whole numbers: discrete, and neither bits nor one-hot."""

        offers = frozenset({"discrete"})

    assert known_sites(Counts(torch.arange(6.0).view(3, 2))) is None
