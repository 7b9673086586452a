"""Laws fitted to the data, what a blur costs, and which objectives do not see the weights of modes."""

import math

import pytest
import torch

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import build
from ebm_lab.distributions.baselines import APART, blind_note, fitted_gaussian, fitted_mixture, groups_apart
from ebm_lab.distributions.blurred import blur_gap, blurred
from ebm_lab.distributions.curves import NoisyCurves
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from tests.helpers import Points

EIGHT = {"name": "eight_gaussians", "radius": 2.0, "std": 0.2, "train": 4000, "held_out": 2000, "seed": 0}


def mixture(gap, weights=(0.7, 0.3), std=1.0, d=1):
    means = torch.zeros(2, d).double()
    means[1, 0] = gap
    return GaussianMixture(
        torch.tensor(weights).double(), means, covariances=std**2 * torch.eye(d).double().repeat(2, 1, 1)
    )


class Drawn(Dataset):
    def __init__(self, law, n, known=True):
        g = torch.Generator().manual_seed(0)
        self.train, self.val, self.test = (law.sample(n, g) for _ in range(3))
        self.own, self.law = law, law if known else None

    def log_prob(self, x):
        return self.own.log_prob(x)


def test_em_finds_a_known_mixture_and_is_done_once():
    """Weights within 4 standard errors, sqrt(w (1 - w) / n); means within 4 of std / sqrt(n w)."""
    data = Drawn(mixture(8.0, d=2), 5000)
    law = fitted_mixture(data)
    assert law is not None and len(law.odds) == 2 and fitted_mixture(data) is law
    order = law.means[:, 0].argsort()
    assert abs(float(law.odds[order[1]]) - 0.3) < 4 * (0.3 * 0.7 / 5000) ** 0.5
    assert float((law.means[order[1]] - torch.tensor([8.0, 0.0])).norm()) < 4 * (2 / 1500) ** 0.5


def test_the_fit_is_the_same_in_other_units_and_axes():
    x = mixture(8.0, d=2).sample(3000, torch.Generator().manual_seed(1))
    a = torch.tensor([[1e4, 3.0], [0.0, 1e-3]]).double()
    plain, moved = Points(x), Points(x @ a.T + 1e5)
    shift = float(a.logdet())
    for fit in (fitted_gaussian, fitted_mixture):
        one, two = fit(plain), fit(moved)
        assert one is not None and two is not None
        assert torch.allclose(two.log_prob(moved.train) + shift, one.log_prob(plain.train), atol=1e-4)


def test_where_there_is_no_density_there_is_no_baseline():
    x = torch.randn(100, 1)
    for data in (Points(torch.cat([x, 2 * x], 1)), Points(torch.zeros(50, 2)), Points(torch.randn(1, 2))):
        assert fitted_gaussian(data) is None and fitted_mixture(data) is None
    assert fitted_gaussian(Points(torch.rand(50, 1, 2, 2), (0.0, 1.0))) is None


def test_components_further_apart_than_the_limit_are_groups():
    """Unit Gaussians on a line part where their distance passes APART sqrt(1 + b^2), for a blur b."""
    assert len(groups_apart(mixture(APART - 0.01), 0.0)) == 1 and len(groups_apart(mixture(APART + 0.01), 0.0)) == 2
    gap = 10.0
    limit = math.sqrt((gap / APART) ** 2 - 1)
    assert len(groups_apart(mixture(gap), 0.99 * limit)) == 2 and len(groups_apart(mixture(gap), 1.01 * limit)) == 1
    chain = GaussianMixture(
        torch.ones(5).double(), 5.0 * torch.arange(5).double()[:, None], covariances=torch.ones(5, 1, 1).double()
    )
    assert len(groups_apart(chain, 0.0)) == 1  # the ends are 20 apart, and no neighbours are


def test_a_mixture_base_brings_the_weights():
    data = build("dataset", EIGHT)
    line = blind_note(data, "objective=ssm", 0.0, None)
    assert line is not None and "8 groups more than 6 standard deviations apart" in line and "objective=ssm" in line
    assert blind_note(data, "objective=ssm", 0.0, data.law) is None
    assert blind_note(data, "objective=ssm", 0.0, mixture(8.0, d=2)) is not None  # a mixture of other data
    assert blind_note(data, "objective=ssm", 0.0, IsotropicGaussian(torch.zeros(2), 1.0)) is not None
    assert blind_note(data, "objective=cnce", 2.0, None) is None  # a kernel as wide as the data
    moons = {"name": "two_moons", "noise": 0.15, "train": 4000, "held_out": 2000, "seed": 0}
    assert blind_note(build("dataset", moons), "objective=ssm", 0.0, None) is None


def test_blurred_laws_are_convolutions():
    """The density of p * N(0, sigma^2) at points, against the integral over the line."""
    sigma, t = 0.4, torch.linspace(-12, 20, 20_001).double()[:, None]
    stds = GaussianMixture(
        torch.ones(2).double(), torch.tensor([[0.0], [3.0]]).double(), stds=torch.tensor(0.5).double()
    )
    for law in (mixture(8.0), stds, IsotropicGaussian(torch.zeros(1).double(), 1.5)):
        q = blurred(law, sigma)
        assert q is not None
        for x in (-1.0, 0.3, 7.0):
            kernel = (-((x - t[:, 0]) ** 2) / (2 * sigma**2)).exp() / (sigma * math.sqrt(2 * math.pi))
            exact = torch.trapezoid(law.log_prob(t).exp() * kernel, t[:, 0])
            assert float(q.log_prob(torch.tensor([[x]]).double()).exp()) == pytest.approx(float(exact), rel=1e-6)
    curve = NoisyCurves(lambda i, t: torch.stack([t, t], 1), 1, 0.3)
    wide = blurred(curve, 0.4)
    assert isinstance(wide, NoisyCurves) and wide.std == pytest.approx(0.5)


def test_the_cost_of_a_blur_without_a_formula_agrees_with_the_formula():
    """Within 4 standard errors of its own points, of which it takes fewer, for a density that it only evaluates."""
    law, sigma = mixture(8.0, std=0.7), 0.5
    known, unknown = Drawn(law, 20_000), Drawn(law, 20_000, known=False)
    generator = torch.Generator().manual_seed(0)
    exact, estimate = (blur_gap(d, d.test, sigma, generator) for d in (known, unknown))
    assert exact is not None and estimate is not None
    r = sigma**2 / 0.7**2
    closed = 0.5 * math.log1p(r) - 0.5 * r / (1 + r)  # of one component: the other is 11 std away
    assert abs(exact.nats - closed) < 4 * exact.se and exact.se < 0.1 * closed
    assert abs(estimate.nats - closed) < 4 * estimate.se and estimate.se < 0.5 * closed
    assert blur_gap(Points(torch.randn(9, 2)), torch.randn(9, 2), sigma, generator) is None
