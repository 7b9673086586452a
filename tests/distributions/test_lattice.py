"""Ising and Potts models by transfer matrices: against enumeration, Kaufman's closed form and exact probabilities."""

import itertools
import math

import pytest
import torch

from ebm_lab.core.discrete import Sites
from ebm_lab.distributions.lattice import LatticeLaw, enumerated
from ebm_lab.distributions.table import TableLaw, tabulated

PUBLISHED = [
    (3, 0.1, 6.6697446),
    (3, 0.2, 8.4564564),
    (4, 0.1, 11.7714704),
    (4, 0.2, 14.5610930),
    (10, 0.1, 73.4530978),
    (10, 0.2, 88.1877006),
    (10, 0.25, 103.2729754),
]
SMALL = [
    LatticeLaw((3, 3), 0.3, True, 0.2),
    LatticeLaw((4, 3), -0.25, True, -0.1),
    LatticeLaw((3, 4), 0.25, False, 0.3),
    LatticeLaw((2, 2), 0.4, True),
    LatticeLaw((2, 5), 0.3, True, 0.1),
    LatticeLaw((5, 2), 0.3, False),
    LatticeLaw((1, 6), 0.5, True, 0.2),
    LatticeLaw((6, 1), 0.5, False, 0.2),
    LatticeLaw((2, 1), 0.7, True),
    LatticeLaw((3, 2), 0.3, True, 0, 3, True),
    LatticeLaw((2, 3), -0.3, False, 0, 3, True),
    LatticeLaw((3, 3), 0.2, True, 0, 2, True),
]


def points_of(law):
    """All points, in the order of their numbers, by nested loops."""
    h, w = law.size
    values = torch.tensor(list(itertools.product(range(law.categories), repeat=h * w)))
    if not law.one_hot:
        return values.view(-1, 1, h, w).float()
    return torch.stack([values == k for k in range(law.categories)], 1).view(-1, law.categories, h, w).float()


def pairs_of(h, w, torus):
    """The pairs of neighbours, each once, from the coordinates of all sites."""
    found = set()
    for i, j in itertools.product(range(h), range(w)):
        for a, b in ((i + 1, j), (i, j + 1)):
            if torus:
                a, b = a % h, b % w
            if a < h and b < w and (a, b) != (i, j):
                found.add(frozenset([(i, j), (a, b)]))
    return [tuple(pair) for pair in found]


def log_weights(law, x):
    """The log weight and the sum of agreements of each point, edge by edge."""
    values = x.argmax(1) if law.one_hot else x[:, 0]
    agreement = torch.zeros(len(x), dtype=torch.float64)
    for (i, j), (a, b) in pairs_of(*law.size, law.torus):
        agreement += torch.where(values[:, i, j] == values[:, a, b], 1.0, -1.0).double()
    spins = (2 * values.double() - 1).sum((1, 2))
    return 2 * law.sigma * agreement + law.bias * spins, agreement


def chi_square(x, sites, p):
    """Pearson's statistic in standard deviations from its mean, over points that expect five draws and the rest as
    one."""
    counts = torch.bincount(sites.number(x), minlength=sites.states).double()
    expected = len(x) * p
    rare = expected < 5
    counts, expected = (torch.cat([t[~rare], t[rare].sum().view(1)]) for t in (counts, expected))
    kept = expected > 0
    assert float(counts[~kept].sum()) == 0
    freedom = int(kept.sum()) - 1
    statistic = float(((counts - expected)[kept].square() / expected[kept]).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("side, sigma, known", PUBLISHED)
def test_log_z_of_square_tori(side, sigma, known):
    """Enumerated for sides 3 and 4, and from Kaufman's formula for side 10."""
    assert LatticeLaw((side, side), sigma, True).log_z == pytest.approx(known, abs=6e-8)


@pytest.mark.parametrize("size", [(3, 4), (7, 10), (10, 7), (5, 64)])
@pytest.mark.parametrize("sigma", [0.05, 0.21, 0.2203434, 0.3, 0.6])
def test_log_z_of_rectangular_tori_is_kaufman_s(size, sigma):
    """Z = (2 sinh 2K)^(mn/2) / 2 times the sum of four products over cosh and sinh of m gamma_l / 2, l odd and even,
    cosh gamma_l = cosh 2K coth 2K - cos(pi l / n), gamma_0 = 2K + log tanh K, K = 2 sigma."""
    m, n, k = *size, 2 * sigma
    gamma = [
        math.acosh(max(1.0, math.cosh(2 * k) / math.tanh(2 * k) - math.cos(math.pi * i / n))) for i in range(2 * n)
    ]
    gamma[0] = 2 * k + math.log(math.tanh(k))
    log_terms = []
    for parity in (1, 0):
        half = [m * g / 2 for g in gamma[parity::2]]
        log_terms.append((1, sum(math.log(2 * math.cosh(g)) for g in half)))
        sign = math.prod(math.copysign(1, g) for g in half)
        log_terms.append((sign, sum(math.log(max(1e-300, 2 * abs(math.sinh(g)))) for g in half)))
    most = max(log for _, log in log_terms)
    total = math.log(sum(sign * math.exp(log - most) for sign, log in log_terms)) + most
    known = m * n / 2 * math.log(2 * math.sinh(2 * k)) - math.log(2) + total
    assert LatticeLaw(size, sigma, True).log_z == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("law", SMALL, ids=str)
def test_small_lattices_by_enumeration(law):
    """log Z, every log p, the mean agreement of neighbours and the entropy; J and b give the same law."""
    x = points_of(law)
    log_weight, agreement = log_weights(law, x)
    log_z = torch.logsumexp(log_weight, 0)
    p = (log_weight - log_z).exp()
    assert law.log_z == pytest.approx(float(log_z), abs=1e-12)
    torch.testing.assert_close(law.log_prob(x), log_weight - log_z, atol=1e-12, rtol=0)
    assert float(law.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert len(law.edges) == len(pairs_of(*law.size, law.torus))
    assert law.mean_agreement == pytest.approx(float(p @ agreement) / len(law.edges), abs=1e-12)
    assert law.entropy == pytest.approx(float(-(p @ p.log())), abs=1e-11)
    if not law.one_hot:
        spins = 2 * x.flatten(1).double() - 1
        energy = ((spins @ law.couplings) * spins).sum(1) + law.bias * spins.sum(1)
        torch.testing.assert_close(energy, log_weight, atol=1e-12, rtol=0)
        table = enumerated(law.sites, law.couplings, torch.full((law.sites.count,), law.bias, dtype=torch.float64))
        assert table.log_z == pytest.approx(law.log_z, abs=1e-12)


@pytest.mark.parametrize("side, sigma, known", [(4, 0.1, 0.2280677), (4, 0.2, 0.6895582)])
def test_the_mean_of_neighbours_on_a_torus(side, sigma, known):
    assert LatticeLaw((side, side), sigma, True).mean_agreement == pytest.approx(known, abs=6e-8)


@pytest.mark.parametrize("law", SMALL, ids=str)
def test_samples_have_the_exact_probabilities(law, generator):
    """Over all points, within 4 standard deviations of Pearson's statistic."""
    x, every = law.sample(40_000, generator), points_of(law)
    assert x.shape == (40_000, *law.sites.shape) and x.dtype == torch.float32
    assert abs(chi_square(x, law.sites, law.log_prob(every).exp())) < 4


@pytest.mark.parametrize("size, sigma, torus", [((10, 10), 0.2, True), ((9, 10), 0.22, False), ((13, 8), 0.2, True)])
def test_samples_of_large_lattices_have_the_exact_means(size, sigma, torus, generator):
    """The mean log-probability is minus the entropy within 4 standard errors, and the product of two opposite corners,
    which no edge of a free lattice joins, is that of a law with rows and columns exchanged."""
    law, other = LatticeLaw(size, sigma, torus), LatticeLaw(size[::-1], sigma, torus)
    x, y = law.sample(3000, generator), other.sample(3000, generator).mT
    assert other.log_z == pytest.approx(law.log_z, abs=1e-9)
    for drawn in (x, y):
        log_p = law.log_prob(drawn)
        assert abs(float(log_p.mean()) + law.entropy) < 4 * float(log_p.std()) / math.sqrt(3000)
    far = [(2 * t[:, 0, 0, 0] - 1) * (2 * t[:, 0, size[0] // 2, size[1] // 2] - 1) for t in (x, y)]
    assert abs(float(far[0].mean() - far[1].mean())) < 4 * math.sqrt(2 / 3000)


@pytest.mark.parametrize("sigma", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("size", [(9, 9), (8, 40)])
@pytest.mark.parametrize("torus", [True, False])
def test_the_strongest_couplings_stay_finite(sigma, size, torus, generator):
    """At sigma = 2 a lattice is frozen: log Z is the number of ground states' log and their weight, but for terms of
    e^-16 an edge. An odd torus of opposites has bonds that can't all be satisfied."""
    law = LatticeLaw(size, sigma, torus)
    assert math.isfinite(law.log_z) and math.isfinite(law.entropy)
    assert law.log_prob(law.sample(50, generator)).isfinite().all()
    if sigma == 0:
        assert law.log_z == pytest.approx(size[0] * size[1] * math.log(2))
    elif sigma > 0 or not torus or size[0] % 2 == 0:
        assert law.log_z == pytest.approx(2 * 2.0 * len(law.edges) + math.log(2), abs=1e-4)


def test_a_wide_or_biased_lattice_is_refused():
    with pytest.raises(ValueError, match="2048 states of a row; at most 1024"):
        LatticeLaw((11, 12), 0.1, True)
    with pytest.raises(ValueError, match="one-hot, and have no bias"):
        LatticeLaw((3, 3), 0.1, True, 0.5, 3, True)


def test_a_table_gives_its_numbers_back(generator):
    """Probabilities, log Z and entropy by hand, on bits and on categories; a point without mass is never drawn."""
    for sites in (Sites((4,)), Sites((3, 2), 3, True)):
        weights = torch.linspace(-2, 2, sites.states, dtype=torch.float64)
        weights[3] = -math.inf
        law = TableLaw(sites, weights)
        every = torch.cat([*sites.every(torch.zeros(()))])
        z = float(weights.exp().sum())
        assert law.log_z == pytest.approx(math.log(z))
        torch.testing.assert_close(law.log_prob(every), weights - math.log(z))
        torch.testing.assert_close(tabulated(sites, lambda x: -x.flatten(1).sum(1)).probabilities.sum().item(), 1.0)
        p = weights.exp() / z
        assert law.entropy == pytest.approx(-sum(q * math.log(q) for q in p.tolist() if q))
        x = law.sample(40_000, generator)
        assert abs(chi_square(x, sites, p)) < 4 and not bool((sites.number(x) == 3).any())
        assert torch.equal(law.points(torch.arange(sites.states)), every)
    with pytest.raises(ValueError, match=r"\(3,\) weights for 16 points"):
        TableLaw(Sites((4,)), torch.zeros(3))
    with pytest.raises(ValueError, match="at most 1048576"):
        TableLaw(Sites((21,)), torch.zeros(3))
