"""Bases of energies: their formulas against automatic differentiation and quadrature, their fits against known laws.

In float64 both sides of an identity are the same sums up to their order: 1e-9 is many thousands of roundings.
"""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, StudentT

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import score
from ebm_lab.core.registry import build
from ebm_lab.distributions import fitting
from ebm_lab.distributions.base import BaseLaw, MixtureBase, StudentBase
from ebm_lab.distributions.fitting import fit_base, fit_components, fit_mixture, fit_scales, fit_student
from tests.helpers import Points, covariance

MEAN, SCATTER = torch.tensor([2.0, -1.0]).double(), torch.tensor([[1.0, 0.5], [0.5, 0.74]]).double()


class Split(Points):
    """Points with a validation split of their own."""

    def __init__(self, train, val):
        super().__init__(train)
        self.val = val


def student_draws(n, nu, generator, mean=MEAN, scatter=SCATTER):
    z = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    g = 2 * torch._standard_gamma(torch.full((n,), nu / 2, dtype=torch.float64), generator=generator)
    return mean + (nu / g).sqrt()[:, None] * (z @ torch.linalg.cholesky(scatter).T)


def mixture(generator, k=3, d=3, shape=None):
    """A random mixture with its parts: (base, weights, means, covariances)."""
    weights = torch.rand(k, generator=generator, dtype=torch.float64) + 0.2
    means = torch.randn(k, d, generator=generator, dtype=torch.float64)
    covariances = torch.stack([covariance(d, generator) for _ in range(k)])
    variances, axes = torch.linalg.eigh(covariances)
    return MixtureBase(shape or (d,), weights, means, axes, variances), weights / weights.sum(), means, covariances


def student(d=3, generator=None, nu=2.5):
    scatter = covariance(d, generator)
    variances, axes = torch.linalg.eigh(scatter)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return StudentBase((d,), mean, axes, variances, torch.tensor(nu).double()), mean, scatter


def diagonal(generator):
    one = torch.ones(1).double()
    return MixtureBase((2, 1, 2), one, torch.randn(1, 4).double(), None, torch.rand(1, 4).double() + 0.3)


BASES = {
    "mixture": lambda g: mixture(g)[0],
    "gaussian": lambda g: mixture(g, 1)[0],
    "student": lambda g: student(3, g)[0],
    "diagonal": diagonal,
}


def test_a_mixture_has_the_density_of_its_parts_at_every_level(generator):
    """Per-sample levels too: the covariance of x + sigma z is S + sigma^2 I."""
    base, weights, means, covariances = mixture(generator)
    x = 2 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0, 2, 7).double()
    for i, level in enumerate(sigma):
        parts = [
            MultivariateNormal(m, s + level**2 * torch.eye(3).double()) for m, s in zip(means, covariances, strict=True)
        ]
        exact = torch.stack([w.log() + p.log_prob(x) for w, p in zip(weights, parts, strict=True)]).logsumexp(0)
        torch.testing.assert_close(-base(x, float(level)), exact, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(-base(x, sigma)[i], exact[i], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(-base(x, level.view(1)), exact, rtol=1e-10, atol=1e-10)


def test_the_blur_is_the_convolution(generator):
    """integral of base(y) N(x; y, sigma^2) dy on the line, by a fine grid."""
    base = mixture(generator, k=2, d=1)[0]
    grid, sigma = torch.linspace(-20, 20, 40_001, dtype=torch.float64), 0.6
    x = torch.tensor([-1.5, 0.0, 0.4, 2.2]).double()
    kernel = torch.exp(-0.5 * ((x[:, None] - grid) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    expected = kernel @ (-base(grid[:, None])).exp() * float(grid[1] - grid[0])
    torch.testing.assert_close((-base(x[:, None], sigma)).exp(), expected, rtol=1e-9, atol=1e-12)


def test_a_student_law_in_one_dimension_is_torch_s(generator):
    base, mean, scatter = student(1, generator, 2.5)
    x = 5 * torch.randn(20, 1, generator=generator, dtype=torch.float64)
    exact = StudentT(torch.tensor(2.5).double(), mean, scatter[0].sqrt()).log_prob(x)[:, 0]
    torch.testing.assert_close(-base(x), exact, rtol=1e-10, atol=1e-10)


def test_a_student_law_in_the_plane_integrates_to_one(generator):
    """In polar coordinates of S^-1/2 (x - m): P(|z| > R) = (1 + R^2 / nu)^(-nu / 2) is the share left out."""
    base, mean, scatter = student(2, generator, 3.0)
    u = torch.linspace(0, math.log1p(1e4), 20_001, dtype=torch.float64)
    r, angle = u.expm1(), torch.arange(64).double() / 64 * 2 * math.pi
    z = torch.stack([r[:, None] * angle.cos(), r[:, None] * angle.sin()], -1)
    p = (-base(mean + (z @ torch.linalg.cholesky(scatter).T).view(-1, 2))).exp().view(len(r), -1).mean(1)
    density = p * 2 * math.pi * r * u.exp() * torch.linalg.det(scatter).sqrt()
    assert float(torch.trapezoid(density, u)) == pytest.approx(1 - (1 + 1e8 / 3) ** -1.5, abs=1e-6)


@pytest.mark.parametrize("name", BASES)
def test_gradient_and_curvature_are_those_of_autograd(name, generator):
    base = BASES[name](generator)
    x = 2 * torch.randn(6, *base.shape, generator=generator, dtype=torch.float64)
    v = torch.randn(4, *x.shape, generator=generator, dtype=torch.float64)
    value, grad = base.with_gradient(x)
    torch.testing.assert_close(value, base(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, -score(base, x), rtol=1e-9, atol=1e-9)
    hessians = [torch.autograd.functional.hessian(lambda y: base(y[None])[0], xi).view(xi.numel(), -1) for xi in x]
    flat = v.flatten(2)
    exact = torch.stack([(flat[:, i] @ h * flat[:, i]).sum() for i, h in enumerate(hessians)])
    torch.testing.assert_close(base.curvature(x, v), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.8])
def test_samples_of_a_mixture_have_its_moments(level, generator):
    base, weights, means, covariances = mixture(generator)
    n, x = 40_000, base.sample(40_000, generator, level)
    mean = (weights[:, None] * means).sum(0)
    spread = means - mean
    cov = (weights[:, None, None] * (covariances + spread[:, :, None] * spread[:, None])).sum(0) + level**2 * torch.eye(
        3
    )
    assert ((x.mean(0) - mean) / (cov.diagonal() / n).sqrt()).abs().max() < 4.5
    products = (x - mean)[:, :, None] * (x - mean)[:, None]
    assert ((products.mean(0) - cov) / (products.std(0) / n**0.5)).abs().max() < 4.5


def test_samples_of_a_student_law_have_its_distances(generator):
    """In two dimensions P(q > t) = (1 + t / nu)^(-nu / 2), and the direction is uniform."""
    base, mean, scatter = student(2, generator, 3.0)
    n, x = 40_000, base.sample(40_000, generator)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), (x - mean).T, upper=False).T
    q = z.square().sum(1)
    for t in (0.5, 3.0, 30.0, 300.0):
        p = (1 + t / 3) ** -1.5
        assert abs(float((q > t).double().mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / n)
    unit = z / q.sqrt()[:, None]
    assert (unit.mean(0).abs() < 4.5 * math.sqrt(0.5 / n)).all()
    assert abs(float((unit[:, 0] * unit[:, 1]).mean())) < 4.5 * math.sqrt(0.125 / n)


def test_em_recovers_a_mixture_of_three(generator):
    """Well-separated components: each estimate within its own standard errors (of n w_k points)."""
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    means = torch.tensor([[0.0, 0.0], [12.0, 0.0], [0.0, 14.0]]).double()
    covariances = torch.stack([covariance(2, generator) for _ in range(3)])
    n = 9000
    which = torch.multinomial(weights, n, replacement=True, generator=generator)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = means[which] + (torch.linalg.cholesky(covariances)[which] @ z[..., None])[..., 0]
    base = fit_mixture(x[:6000], x[6000:])
    assert len(base.means) == 3
    order = torch.cdist(means, base.means).argmin(1)
    assert order.unique().numel() == 3
    rows = 6000 * weights
    found = (base.axes * base.variances[:, None]) @ base.axes.mT
    for k, j in enumerate(order):
        assert abs(float(base.log_weights[j].exp() - weights[k])) < 4.5 * math.sqrt(
            weights[k] * (1 - weights[k]) / 6000
        )
        variances = covariances[k].diagonal()
        assert ((base.means[j] - means[k]).abs() < 4.5 * (variances / rows[k]).sqrt()).all()
        se = ((variances[:, None] * variances + covariances[k] ** 2) / rows[k]).sqrt()
        assert ((found[j] - covariances[k]).abs() < 4.5 * se).all()


def test_em_finds_four_gaussians_in_whitened_coordinates_of_twenty_dimensions():
    """From few starts it ends where two of them share one Gaussian, .46 nats above the truth. The best of many is as
    near as the number of parameters allows, 4 (20 + 210) + 3 over 2 n = .046 nats."""
    settings = {"weights": [0.4, 0.3, 0.2, 0.1], "separation": 5.0, "condition": 10.0, "shared": False}
    sizes = {"train": 10_000, "held_out": 10_000, "seed": 0}
    data = build("dataset", {"name": "random_mixture", "dim": 20, "law_seed": 2, **settings, **sizes})
    train, held_out = data.train.double(), data.val.double()
    values, axes = torch.linalg.eigh(train.T.cov())
    whitened = [(x - train.mean(0)) @ axes * values.rsqrt() for x in (train, held_out)]
    base = fit_mixture(*whitened)
    truth = -data.law.log_prob(held_out) - 0.5 * values.log().sum()
    assert len(base.means) == 4 and float((base(whitened[1]) - truth).mean()) < 0.046 + 0.014  # 4 standard errors


def test_a_mixture_of_stretched_data_is_found_as_well_as_one_of_round_data(generator):
    """EM is looked for in coordinates in which a map 1 : 100 changes nothing but the log of its determinant."""
    x = mixture(generator, k=3, d=2)[0].sample(3000, generator)
    x = x + 6 * torch.randint(0, 2, (3000, 1), generator=generator) * torch.tensor([1.0, 0.0]).double()
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / math.sqrt(2)
    stretched = x @ torch.tensor([[100.0, 0], [0, 1]]).double() @ turn.T
    near, far = (float(fit_components(y, 4, 2)(y).mean()) for y in (x, stretched))
    assert far - math.log(100) == pytest.approx(near, abs=0.02)


def test_em_recovers_a_student_law(generator):
    """nu = 3 and the scatter within 4.5 standard errors, by the spread of twelve independent fits."""
    fits = [fit_student(x, x) for x in student_draws(12 * 3000, 3.0, generator).chunk(12)]
    found = torch.stack(
        [torch.cat([f.nu.view(1), f.mean, ((f.axes * f.variances) @ f.axes.T).flatten()]) for f in fits]
    )
    exact = torch.cat([torch.tensor([3.0]).double(), MEAN, SCATTER.flatten()])
    assert ((found.mean(0) - exact).abs() < 4.5 * found.std(0) / 12**0.5).all()
    assert (found.std(0) < 0.3).all()


def test_the_student_fit_is_a_maximum_of_the_likelihood(generator):
    """Whatever parameter is moved by a little, the likelihood falls; float64, a second difference of 1e-3 squared."""
    x = student_draws(2000, 3.0, generator)
    fit = fit_student(x, x)
    best = float(fit(x).mean())
    for name in ("nu", "mean", "variances"):
        for factor in (-1e-2, 1e-2):
            moved = fit_student(x, x)
            getattr(moved, name).mul_(1 + factor)
            assert float(moved(x).mean()) > best + 1e-8, name


def test_a_scale_mixture_is_near_the_student_law_and_its_blur_exact(generator):
    """Four Gaussians of one centre: at most .01 nats from the law on fresh draws."""
    x, fresh = student_draws(8000, 3.0, generator), student_draws(20_000, 3.0, generator)
    base, exact = fit_scales(x, x), fit_student(x, x)
    difference = base(fresh) - exact(fresh)
    assert float(difference.mean()) < 0.01
    assert len(base.means) == 4 and torch.equal(base.means[0], base.means[3])


@pytest.mark.parametrize("levels", [False, True])
def test_auto_finds_the_kind_of_law(levels, generator):
    """A Gaussian, eight modes, and heavy tails; and says what each law would have cost."""
    gaussian = torch.randn(4000, 2, generator=generator) * torch.tensor([1.0, 20.0])
    angle = torch.randint(0, 8, (6000,), generator=generator) * math.pi / 4
    modes = 4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.4 * torch.randn(6000, 2, generator=generator)
    heavy = student_draws(6000, 3.0, generator).float()
    for data, expected, words in (
        (gaussian, "gaussian", "a Gaussian"),
        (modes, "mixture", "a mixture of 8 Gaussians"),
        (heavy, "student", "a mixture of 4 Gaussians" if levels else "a Student law of"),
    ):
        split = int(0.8 * len(data))
        base, name, notes = fit_base(Split(data[:split], data[split:]), "auto", levels)
        assert name == expected and base is not None and words in notes[0]
        assert all(law in notes[0] for law in ("gaussian", "student", "mixture", "nats"))


def test_only_a_gaussian_suits_images(generator):
    """Its pixels are independent, with a floor of a thousandth of the data's variance."""
    data = Points(torch.rand(50, 1, 3, 3, generator=generator).double(), bounds=(0.0, 1.0))
    for name in ("mixture", "student"):
        with pytest.raises(UserError, match=f"energy.base={name}: is for points"):
            fit_base(data, name, False)
    base, name, _ = fit_base(data, "auto", False)
    std = (data.train.var(0) + 1e-3 * data.scale**2).sqrt()
    exact = torch.distributions.Normal(data.train.mean(0), std).log_prob(data.train).flatten(1).sum(1)
    assert name == "gaussian"
    torch.testing.assert_close(-base(data.train), exact)


def test_a_constant_coordinate_and_few_points_are_fitted(generator):
    """No nan, and a density that is finite at the data."""
    for x in (torch.randn(60, 3, generator=generator), torch.randn(3, 2, generator=generator)):
        x[:, 1] = 4.0
        for name in ("gaussian", "mixture", "student", "auto"):
            for levels in (False, True):
                base, _, _ = fit_base(Points(x), name, levels)
                assert base(x).isfinite().all() and BaseLaw(base).sample(5, generator).isfinite().all()


def test_a_checkpoint_brings_its_own_number_of_gaussians(generator):
    """And nothing but that: another dimension is refused."""
    three, two = mixture(generator, 3)[0], mixture(generator, 2)[0]
    two.load_state_dict(three.state_dict())
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    assert torch.equal(two(x), three(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        two.load_state_dict(mixture(generator, 3, 2)[0].state_dict())


def test_the_settings_name_all_laws():
    assert set(fitting.BaseName.__args__) == {"none", "gaussian", "mixture", "student", "bernoulli", "auto"}


def test_more_rows_bear_more_gaussians():
    """Two moons are no mixture: 4,000 rows choose fewer Gaussians than 20,000, whose law is surely nearer to the data
    than as many of them as the 4,000 chose."""
    data = build("dataset", {"name": "two_moons", "noise": 0.15, "train": 20_000, "held_out": 40_000, "seed": 0})
    x, held_out, fresh = data.train.double(), data.val[:10_000].double(), data.test.double()
    few, many = fit_mixture(x[:4000], held_out), fit_mixture(x, held_out)
    gain = fit_components(x, len(few.means), 4)(fresh) - many(fresh)
    assert len(many.means) > len(few.means)
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))
