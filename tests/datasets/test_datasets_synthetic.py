"""Synthetic data sets: each density is a density, is that of its samples, and agrees with an independent formula."""

import math

import pytest
import torch
import yaml

from ebm_lab.cli.compose import config_dir
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.distributions.mixture import GaussianMixture

PLANE = [
    "eight_gaussians",
    "twenty_five_gaussians",
    "mixture",
    "rings",
    "spirals",
    "pinwheel",
    "checkerboard",
]
HALF = 5.12
"""Half the side of a square that holds all but 1e-4 of every law: pinwheel's arms end at 2 + 5 x 0.6 = 5."""


def make(name, **changes):
    """The data set with its YAML's settings."""
    values = yaml.safe_load((config_dir() / "dataset" / f"{name}.yaml").read_text())
    values.pop("defaults", None)
    return build("dataset", {**values, **changes})


def cell_masses(data, cells, nodes):
    """(cells, cells): the law's mass in each cell of the square, by the midpoint rule with nodes x nodes per cell."""
    n = cells * nodes
    axis = -HALF + 2 * HALF * (torch.arange(n).double() + 0.5) / n
    p = torch.cat([data.log_prob(part).exp() for part in torch.cartesian_prod(axis, axis).split(20_000)])
    return p.view(cells, nodes, cells, nodes).sum((1, 3)) * (2 * HALF / n) ** 2


@pytest.mark.parametrize("name", PLANE)
def test_density_is_one_and_that_of_the_samples(name):
    """The mass is 1 within 1e-3, and Pearson's chi-squared over cells that expect at least 8 points stays below its
    mean by 5 of its standard deviations. The checkerboard's edges lie on cell borders, where the rule is exact."""
    data = make(name, **({"side": 2.56} if name == "checkerboard" else {}))
    mass = cell_masses(data, 32, 10)
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-3)
    where = ((data.train.double() + HALF) / (2 * HALF) * 32).floor().long().clamp(0, 31)
    counts = torch.bincount(where[:, 0] * 32 + where[:, 1], minlength=32 * 32).double()
    expected = len(data.train) * mass.flatten()
    big = expected >= 8
    rest = (counts[~big].sum(), expected[~big].sum() + 1e-9)
    chi2 = float(((counts - expected)[big].square() / expected[big]).sum() + (rest[0] - rest[1]) ** 2 / (rest[1] + 1))
    freedom = int(big.sum())
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom), (chi2, freedom)


def test_mixture_1d_is_the_one_named():
    """Its density against scipy's normal, its mass, and its distribution function by Kolmogorov's test: the statistic
    exceeds 1.95 / sqrt(n) in one sample of a thousand."""
    from scipy.integrate import quad
    from scipy.stats import norm

    data = make("mixture_1d")
    law = ((0.3, -1.5, 0.7), (0.7, 1.0, 0.9))
    x = torch.linspace(-6, 6, 50).double().unsqueeze(1)
    expected = sum(w * norm.pdf(x[:, 0].numpy(), m, s) for w, m, s in law)
    torch.testing.assert_close(data.log_prob(x).exp(), torch.as_tensor(expected))
    mass = quad(lambda u: float(data.log_prob(torch.tensor([[u]]).double()).exp()), -9, 9, limit=200)[0]
    assert mass == pytest.approx(1.0, abs=1e-7)
    u = data.train[:, 0].double().sort().values
    cdf = torch.as_tensor(sum(w * norm.cdf(u.numpy(), m, s) for w, m, s in law))
    rank = torch.arange(len(u) + 1).double() / len(u)
    distance = torch.maximum((cdf - rank[:-1]).abs(), (cdf - rank[1:]).abs()).max()
    assert float(distance) < 1.95 / math.sqrt(len(u))
    assert data.train.shape == (20000, 1)


CIRCLE = [(2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)) for k in range(8)]
GRID = [(float(i), float(j)) for i in range(-2, 3) for j in range(-2, 3)]


@pytest.mark.parametrize(
    "name, weights, means, std",
    [
        ("eight_gaussians", [1 / 8] * 8, CIRCLE, 0.2),
        ("twenty_five_gaussians", [1 / 25] * 25, GRID, 0.1),
        ("mixture", [0.6, 0.3, 0.1], [(-2, 0), (2, 0), (0, 2)], 0.4),
    ],
)
def test_mixtures_are_the_ones_named(name, weights, means, std):
    """Their density against the sum written out, at each mode and beside it."""
    data = make(name)
    for a, b in [*means, *((a + 0.7 * std, b - 0.3 * std) for a, b in means)]:
        squares = [(a - c) ** 2 + (b - d) ** 2 for c, d in means]
        terms = [w * math.exp(-q / (2 * std**2)) for w, q in zip(weights, squares, strict=True)]
        expected = math.log(sum(terms) / (2 * math.pi * std**2))
        assert float(data.log_prob(torch.tensor([[a, b]], dtype=torch.float64))) == pytest.approx(expected, abs=1e-9)


def test_eight_gaussians_entropy_is_the_known_one():
    """-(log 8 + 1 + log 2 pi std^2) = -1.698 nats, to which what the modes share adds less than 1e-3. The
    log-likelihood has a standard deviation of 1, that of a chi-squared with two degrees of freedom halved."""
    data = make("eight_gaussians")
    expected = -(math.log(8) + 1 + math.log(2 * math.pi * 0.2**2))
    everything = torch.cat([data.train, data.val, data.test])
    mean = float(data.log_prob(everything).mean())
    assert expected == pytest.approx(-1.698, abs=5e-4)
    assert abs(mean - expected) < 4 / math.sqrt(len(everything)) + 1e-3


@pytest.mark.parametrize(
    "name, law",
    [
        ("rings", [(r, 0.0, 1) for r in (0.8, 1.6, 2.4)]),
        ("spirals", [(2.5, k * math.pi, 0) for k in (0, 1)]),
    ],
)
def test_curve_densities_agree_with_adaptive_quadrature(name, law):
    """To 1e-6 nats among the data and to 1e-3 around the curves, their ends included, against scipy's integrator."""
    from scipy.integrate import quad

    data = make(name)
    around = torch.tensor([[0.0, 0.0], [2.5, 0.3], [-2.9, 0.1], [0.1, 0.5], [-2.5, -0.4], [1.2, 1.2]])
    points = torch.cat([data.test[:20], around]).double()
    found = data.log_prob(points)
    for i, ((a, b), log_p) in enumerate(zip(points.tolist(), found.tolist(), strict=True)):

        def density(t, radius, phase, ring, a=a, b=b):
            r = radius if ring else radius * math.sqrt((1 + 24 * t) / 25)
            angle = 2 * math.pi * t if ring else 2 * math.pi * 1.5 * r / radius + phase
            square = (a - r * math.cos(angle)) ** 2 + (b - r * math.sin(angle)) ** 2
            return math.exp(-square / (2 * 0.1**2)) / (2 * math.pi * 0.1**2)

        pieces = [(j / 20, (j + 1) / 20) for j in range(20)]
        value = sum(quad(density, *p, args=c, epsabs=1e-30, epsrel=1e-10)[0] for c in law for p in pieces) / len(law)
        assert log_p == pytest.approx(math.log(value), abs=1e-6 if i < 20 else 1e-3)


def test_spirals_stay_exact_for_thin_arms():
    """The quadrature follows the noise: at a tenth of it, the mean of log p over the data is that of a straight line
    of the same noise, whose density across it is known, within 4 standard errors and the curvature's few percent."""
    data = make("spirals", noise=0.01, held_out=2000)
    log_p = data.log_prob(data.test)
    t = (torch.arange(100_000).double() + 0.5) / 100_000
    r = ((1 + 24 * t) / 25).sqrt()
    log_speed = (12 / 25 * 2.5 * (1 / r.square() + (2 * math.pi * 1.5) ** 2).sqrt()).log().mean()
    line = -math.log(2) - float(log_speed) - 0.5 * (1 + math.log(2 * math.pi * 0.01**2))
    assert float(log_p.mean()) == pytest.approx(line, abs=4 * float(log_p.std()) / math.sqrt(2000) + 0.01)


def test_pinwheel_density_by_numerical_change_of_variables():
    """log p(x) = log p_v(v) - log |det dx/dv|, with the map written out anew and its determinant by autograd."""
    data = make("pinwheel")
    angles = [2 * math.pi * k / 5 for k in range(5)]

    def twist(v):
        a = v.norm() / 2
        return torch.stack([a.cos() * v[0] - a.sin() * v[1], a.sin() * v[0] + a.cos() * v[1]])

    for v in torch.tensor([[2.0, 0.1], [-1.5, 1.0], [0.3, -2.9], [-0.4, -0.2]]).double():
        arms = []
        for a in angles:
            along, across = v[0] * math.cos(a) + v[1] * math.sin(a) - 2, -v[0] * math.sin(a) + v[1] * math.cos(a)
            arms.append(-0.5 * ((along / 0.6) ** 2 + (across / 0.2) ** 2))
        log_v = torch.logsumexp(torch.stack(arms), 0) - math.log(5 * 2 * math.pi * 0.6 * 0.2)
        jacobian = torch.autograd.functional.jacobian(twist, v)
        expected = log_v - jacobian.det().abs().log()
        torch.testing.assert_close(data.log_prob(twist(v).unsqueeze(0))[0], expected)


def test_checkerboard_is_minus_infinity_off_the_board_only():
    data = make("checkerboard", side=0.7)  # edges that float32 can't write down
    log_area = math.log(8 * 0.7**2)
    log_p = data.log_prob(torch.cat([data.train, data.val, data.test]))
    torch.testing.assert_close(log_p, torch.full_like(log_p, -log_area))
    edges = (0.7 * torch.tensor([[-2.0, -2.0], [-1.0, -1.0], [2.0, 2.0], [0.0, 0.0], [1.0, 0.5]])).float()
    for rounded in (edges, edges.nextafter(edges + 9), edges.nextafter(edges - 9)):
        assert data.log_prob(rounded).isfinite().all()
    off = 0.7 * torch.tensor([[-1.5, -0.5], [0.5, 1.5], [2.5, 0.5], [-9.0, 3.0]])
    assert (data.log_prob(off) == -math.inf).all()
    odd = make("checkerboard", squares=3, side=1.0)
    assert float(odd.log_prob(torch.zeros(1, 2))) == pytest.approx(-math.log(5))


def test_mixture_weights_are_relative_and_seen():
    """20,000 draws from weights 6:3:1: shares within 4 standard errors; and a 3-D mixture works."""
    data = make("mixture", weights=[6, 3, 1])
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    shares = torch.bincount(torch.cdist(data.train, centres).argmin(1), minlength=3) / 20000
    for share, w in zip(shares.tolist(), (0.6, 0.3, 0.1), strict=True):
        assert abs(share - w) < 4 * math.sqrt(w * (1 - w) / 20000) + 1e-3
    torch.testing.assert_close(data.log_prob(data.test[:9]), make("mixture").log_prob(data.test[:9]))
    assert make("mixture", means=[[0, 0, 0], [1, 1, 1], [2.0, 2, 2]]).train.shape == (20000, 3)


@pytest.mark.parametrize("name", [*PLANE, "mixture_1d"])
def test_splits_are_reproducible_and_do_not_touch_the_global_generator(name):
    sizes = {"train": 60, "held_out": 40}
    torch.manual_seed(1)
    a = make(name, **sizes)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = make(name, **sizes)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(getattr(a, s), getattr(b, s)) for s in ("train", "val", "test"))
    assert not torch.equal(a.train, make(name, **sizes, seed=1).train)
    everything = torch.cat([a.train, a.val, a.test])
    assert len(everything.unique(dim=0)) == 140 and everything.dtype == torch.float32
    assert a.log_prob(a.val).shape == (40,) and a.log_prob(a.val).isfinite().all()


@pytest.mark.parametrize(
    "name, changes, line",
    [
        ("mixture", {"weights": [1.0]}, r"dataset.means=.*: must be 1 points, one for each of dataset.weights"),
        ("mixture", {"means": [[0, 0], [1, 1], [2]]}, r"must all have the same number of coordinates"),
        ("mixture", {"weights": [1, 0, 1]}, r"dataset.weights=0: should be greater than 0"),
        ("mixture", {"means": []}, r"dataset.means=\[\]: list should have at least 1 item"),
        ("mixture_1d", {"stds": [1.0]}, r"dataset.stds=\[1.0\]: must be 2 numbers, one for each of dataset.weights"),
        ("rings", {"radii": [1, -2]}, r"dataset.radii=-2: should be greater than 0"),
        ("spirals", {"arms": 0}, r"dataset.arms=0: should be greater than 0"),
    ],
)
def test_a_mistake_is_one_line(name, changes, line):
    with pytest.raises(UserError, match=line) as caught:
        make(name, **changes)
    assert len(str(caught.value).splitlines()) == 1


def random_mixture(generator, dtype=torch.float64):
    """Three unequal components over events of shape (2, 2), with full covariances."""
    a = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    covariances = a @ a.mT + 0.3 * torch.eye(4, dtype=torch.float64)
    means = 3 * torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    return GaussianMixture(weights.to(dtype), means.to(dtype), covariances=covariances.to(dtype))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_gaussian_mixture_log_prob_is_torch_s(dtype, tolerance, generator):
    """Against torch's own MixtureSameFamily, with full covariances and with stds, on events of shape (2, 2)."""
    from torch import distributions as d

    full = random_mixture(generator, dtype)
    x = full.sample(50, generator)
    assert x.shape == (50, 2, 2) and x.dtype == dtype
    odds = d.Categorical(full.weights.double())
    parts = d.MultivariateNormal(full.means.double().flatten(1), full.covariances.double())
    expected = d.MixtureSameFamily(odds, parts).log_prob(x.double().flatten(1))
    torch.testing.assert_close(full.log_prob(x).double(), expected, atol=tolerance, rtol=tolerance)
    stds = 0.5 + torch.rand(3, 2, 2, generator=generator, dtype=dtype)
    diagonal = GaussianMixture(full.weights, full.means, stds=stds)
    parts = d.Independent(d.Normal(full.means.double(), stds.double()), 2)
    expected = d.MixtureSameFamily(odds, parts).log_prob(x.double())
    torch.testing.assert_close(diagonal.log_prob(x).double(), expected, atol=tolerance, rtol=tolerance)


def test_gaussian_mixture_samples_have_its_moments(generator):
    """Mean and covariance of 200,000 draws within 5 standard errors of sum w m and sum w (S + m m') - mean mean'."""
    law, n = random_mixture(generator), 200_000
    w, m = law.weights / law.weights.sum(), law.means.flatten(1)
    mean = w @ m
    cov = torch.einsum("k,kij->ij", w, law.covariances + m.unsqueeze(2) * m.unsqueeze(1)) - torch.outer(mean, mean)
    stds = 0.5 + torch.rand(3, 2, 2, generator=generator, dtype=torch.float64)
    diagonal = GaussianMixture(law.weights, law.means, stds=stds)
    spread = torch.einsum("k,ki->i", w, stds.flatten(1).square() + m.square()) - mean.square()
    for mixture, variance in ((law, cov.diagonal()), (diagonal, spread)):
        x = mixture.sample(n, generator).flatten(1)
        centred = x - mean
        assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
        error = (centred.square().var(0) / n).sqrt()
        assert ((centred.square().mean(0) - variance).abs() < 5 * error).all()
    x = law.sample(n, generator).flatten(1) - mean
    products = x.unsqueeze(2) * x.unsqueeze(1)
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_gaussian_mixture_refuses_what_is_no_mixture():
    w, m = torch.ones(2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="either stds or covariances"):
        GaussianMixture(w, m)
    with pytest.raises(ValueError, match=r"\(2,\) weights for 3 means"):
        GaussianMixture(w, torch.zeros(3, 3), stds=torch.tensor(1.0))
