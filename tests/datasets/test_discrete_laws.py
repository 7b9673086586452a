"""Discrete data drawn from known laws: each law against one written anew, its samples against its probabilities."""

import itertools
import math

import pytest
import torch

from ebm_lab.core.discrete import sites_of
from ebm_lab.core.errors import UserError
from ebm_lab.runs.checks import check_data
from tests.datasets.test_datasets_synthetic import make
from tests.distributions.test_lattice import chi_square

DRAWN = ("ising", "potts", "bars_and_stripes", "random_bits", "gray_code")
FEW = {"train": 400, "held_out": 200}


def every(data):
    return torch.cat([*sites_of(data).every(data.train[:1])])


def patterns_by_hand(size):
    """The picture of each of the 2^(size + 1) draws of an orientation and its bits."""
    found = []
    for bits in itertools.product((0.0, 1.0), repeat=size):
        found.append([bits] * size)
        found.append([[b] * size for b in bits])
    return torch.tensor(found).unsqueeze(1)


@pytest.mark.parametrize("name", DRAWN)
def test_splits_are_discrete_reproducible_and_have_no_score(name):
    torch.manual_seed(1)
    a = make(name, **FEW)
    before = torch.get_rng_state()
    b = make(name, **FEW)
    assert torch.equal(torch.get_rng_state(), before)
    for split, n in (("train", 400), ("val", 200), ("test", 200)):
        x = getattr(a, split)
        assert torch.equal(x, getattr(b, split)) and len(x) == n and x.dtype == torch.float32
        assert bool(((x == 0) | (x == 1)).all())
    assert not torch.equal(a.val, a.test) and not torch.equal(a.train, make(name, **FEW, seed=1).train)
    assert a.found_features() >= {"discrete"} and "continuous" not in a.found_features()
    assert a.space == ("categorical" if name == "potts" else "binary")
    if name == "potts":
        assert bool((a.train.sum(1) == 1).all()) and a.event_shape == (3, 6, 6)
    log_p = a.log_prob(a.val)
    assert log_p is not None and log_p.shape == (200,) and bool(log_p.isfinite().all()) and a.score(a.val) is None
    check_data(a, {"dataset": {"name": name}})


@pytest.mark.parametrize("boundary", ["torus", "free"])
def test_ising_samples_show_its_couplings(boundary):
    """J and b against neighbours found on the grid; the mean of x_i x_j over edges within 4 standard errors."""
    data = make("ising", size=[4, 5], sigma=0.15, field=0.1, boundary=boundary, train=20_000)
    expected = torch.zeros(4, 5, 4, 5, dtype=torch.float64)
    for i, j in itertools.product(range(4), range(5)):
        for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if boundary == "torus" or (0 <= a < 4 and 0 <= b < 5):
                expected[i, j, a % 4, b % 5] = 0.15
    assert torch.equal(data.couplings, expected.view(20, 20)) and data.couplings.dtype == torch.float64
    assert data.fields.tolist() == [0.1] * 20 and data.bounds == (0.0, 1.0) and data.event_shape == (1, 4, 5)
    x = 2 * data.train.flatten(1).double() - 1
    energy = ((x @ data.couplings) * x).sum(1) + x @ data.fields
    torch.testing.assert_close(data.log_prob(data.train), energy - data.law.log_z)
    mean = ((x @ (data.couplings / 0.15)) * x).sum(1) / (data.couplings / 0.15).sum()
    assert abs(float(mean.mean()) - data.law.mean_agreement) < 4 * float(mean.std()) / math.sqrt(len(x))


def test_ising_takes_couplings_of_your_own():
    """Three spins by hand: log p = 2 sum_pairs J_ij x_i x_j + b sum x_i - log Z."""
    triples = [[0, 1, 0.4], [2, 1, -0.3]]
    data = make("ising", size=[1, 3], field=0.2, couplings=triples, train=40_000)
    weights = []
    for bits in itertools.product((-1, 1), repeat=3):
        weights.append(2 * (0.4 * bits[0] * bits[1] - 0.3 * bits[2] * bits[1]) + 0.2 * sum(bits))
    log_p = torch.tensor(weights, dtype=torch.float64).log_softmax(0)
    torch.testing.assert_close(data.log_prob(every(data)), log_p)
    assert abs(chi_square(data.train, sites_of(data), log_p.exp())) < 4
    assert torch.equal(data.couplings, data.couplings.T) and float(data.couplings[1, 2]) == -0.3
    alike = make("ising", size=[1, 3], field=0.2, sigma=0.7, boundary="free", couplings=None, **FEW)
    given = make("ising", size=[1, 3], field=0.2, couplings=[[0, 1, 0.7], [1, 2, 0.7]], **FEW)
    torch.testing.assert_close(alike.log_prob(every(alike)), given.log_prob(every(given)))
    assert make("ising", size=[1, 2], couplings=[], **FEW).law.log_z == pytest.approx(2 * math.log(2))


def test_potts_of_two_states_is_ising():
    data, ising = make("potts", size=[3, 3], states=2, sigma=0.3, **FEW), make("ising", size=[3, 3], sigma=0.3, **FEW)
    bits = every(ising)
    torch.testing.assert_close(data.log_prob(torch.cat([1 - bits, bits], 1)), ising.log_prob(bits))
    assert data.event_shape == (2, 3, 3) and data.bounds is None


def test_bars_and_stripes_without_flips_has_the_published_likelihood():
    """Of the 32 pictures: 28 log(1/32) + 4 log(1/16) = -108.13; any other point has no mass."""
    data = make("bars_and_stripes", flip=0.0)
    drawn = patterns_by_hand(4)
    assert float(data.log_prob(drawn).sum()) == pytest.approx(28 * math.log(1 / 32) + 4 * math.log(1 / 16), abs=1e-9)
    assert float(data.log_prob(drawn).sum()) == pytest.approx(-108.13, abs=0.005)
    assert data.patterns.shape == (30, 1, 4, 4) and data.patterns.dtype == torch.float32
    assert {tuple(p) for p in drawn.flatten(1).tolist()} == {tuple(p) for p in data.patterns.flatten(1).tolist()}
    torch.testing.assert_close(data.log_prob(data.patterns).exp(), data.pattern_probabilities)
    mass = data.log_prob(every(data)).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12) and int((mass > 0).sum()) == 30
    assert abs(chi_square(data.train, sites_of(data), mass)) < 4


@pytest.mark.parametrize("size, flip", [(4, 0.05), (3, 0.2), (2, 0.1)])
def test_bars_and_stripes_with_flips_by_the_sum_over_patterns(size, flip):
    data = make("bars_and_stripes", size=size, flip=flip, train=50_000)
    x = every(data)
    p = torch.zeros(len(x), dtype=torch.float64)
    for pattern in patterns_by_hand(size):
        turned = (x != pattern).flatten(1).sum(1)
        p += flip ** turned.double() * (1 - flip) ** (size * size - turned).double() / 2 ** (size + 1)
    torch.testing.assert_close(data.log_prob(x), p.log(), atol=1e-10, rtol=0)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert data.law.entropy == pytest.approx(float(-(p * p.log()).sum()), abs=1e-10)
    assert abs(chi_square(data.train, sites_of(data), p)) < 4


def test_random_bits_have_normal_logits():
    """All 4,096 probabilities follow the law and its seed alone; log p has standard deviation 1 within 4 errors."""
    data = make("random_bits", train=400_000)
    log_p = data.log_prob(every(data))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert abs(float(log_p.std()) - 1) < 4 / math.sqrt(2 * 4096)
    assert abs(chi_square(data.train, sites_of(data), log_p.exp())) < 4
    other_draw, other_law = make("random_bits", **FEW, seed=1), make("random_bits", **FEW, law_seed=1)
    assert torch.equal(other_draw.log_prob(every(data)), log_p)
    assert not torch.allclose(other_law.log_prob(every(data)), log_p)
    wide = make("random_bits", **FEW, std=2.0).log_prob(every(data))
    torch.testing.assert_close(wide - wide.mean(), 2 * (log_p - log_p.mean()))


@pytest.mark.parametrize(
    "name, changes, line",
    [
        ("ising", {"size": [11, 12]}, r"dataset.size=\[11, 12\]: .* shorter side may have at most 10 site.s. of 2"),
        ("ising", {"size": [1, 1]}, r"dataset.size=\[1, 1\]: one site has no neighbours"),
        ("ising", {"size": [4]}, r"dataset.size=\[4\]: list should have at least 2 items"),
        ("ising", {"size": [4, 0]}, r"dataset.size=0: should be greater than 0"),
        ("ising", {"sigma": 3.0}, r"dataset.sigma=3.0: should be less than or equal to 2"),
        ("ising", {"boundary": "open"}, r"dataset.boundary=open: should be 'torus' or 'free'"),
        ("ising", {"size": [5, 5], "couplings": []}, r"dataset.size=\[5, 5\]: has 25 sites.*at most 20"),
        ("ising", {"size": [2, 2], "couplings": [[0, 4, 1]]}, r"dataset.couplings=\[0, 4, 1.*from 0 to 3"),
        ("ising", {"size": [2, 2], "couplings": [[1, 1, 1]]}, r"dataset.couplings=\[1, 1, 1.*two different sites"),
        ("ising", {"size": [2, 2], "couplings": [[0, 0.5, 1]]}, r"dataset.couplings=\[0, 0.5, 1.*two different sites"),
        ("ising", {"size": [2, 2], "couplings": [[0, 1, 1], [1, 0, 2]]}, r"dataset.couplings=\[1, 0, 2.*there twice"),
        ("potts", {"size": [7, 9]}, r"dataset.size=\[7, 9\]: .* at most 6 site.s. of 3 values"),
        ("potts", {"states": 1}, r"dataset.states=1: should be greater than or equal to 2"),
        ("potts", {"states": 40}, r"dataset.size=\[6, 6\]: .* at most 1 site.s. of 40 values"),
        ("bars_and_stripes", {"size": 5}, r"dataset.size=5: should be less than or equal to 4"),
        ("bars_and_stripes", {"flip": 0.5}, r"dataset.flip=0.5: should be less than 0.5"),
        ("random_bits", {"bits": 21}, r"dataset.bits=21: should be less than or equal to 20"),
        ("gray_code", {"bits": 17}, r"dataset.bits=17: should be a multiple of 2"),
        ("gray_code", {"toy": "moons"}, r"dataset.toy=moons: should be 'eight_gaussians'"),
    ],
)
def test_a_mistake_is_one_line(name, changes, line):
    with pytest.raises(UserError, match=line) as caught:
        make(name, **{**FEW, **changes})
    assert len(str(caught.value).splitlines()) == 1
