"""The score-matching loss on held-out data against closed forms of Gaussians."""

import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.datasets.checkerboard import Checkerboard
from ebm_lab.datasets.gaussian import Gaussian as GaussianData
from ebm_lab.datasets.mixture import Mixture
from ebm_lab.energies.mlp import MLP
from ebm_lab.evaluation.sm_loss import ScoreMatchingLoss, true_loss
from ebm_lab.models.levels import ScoreNetwork
from tests.helpers import Points, covariance, exact_sample, gaussian_energy


def loss(energy, data, exact_dim=64, projections=8, points=100_000, seed=0):
    view = EvalView(energy, data, "test", None, 4, 4, torch.Generator().manual_seed(seed))
    return ScoreMatchingLoss(exact_dim=exact_dim, projections=projections, points=points)(view).metrics


@pytest.fixture
def case(generator):
    """A Gaussian energy of precision P, and points whose mean and covariance are exactly m and S."""
    d, n = 5, 600
    precision, cov = covariance(d, generator), covariance(d, generator)
    mean, mu = torch.randn(d, generator=generator).double(), torch.randn(d, generator=generator).double()
    return gaussian_energy(mu, precision), Points(exact_sample(mean, cov, n, generator)), precision, cov, mean - mu


def test_the_loss_of_a_gaussian_is_the_closed_form(case):
    """J = 1/2 tr(P^2 S') - tr P, with S' = S + D D'."""
    energy, data, p, cov, shift = case
    expected = 0.5 * (p @ p @ (cov + torch.outer(shift, shift))).trace() - p.trace()
    assert loss(energy, data)["sm_loss"] == pytest.approx(float(expected), rel=1e-9)


def test_the_standard_error_is_that_of_the_mean(case):
    """1/2 |P (x - mu)|^2 - tr P varies as its first term does."""
    energy, data, p, _, _ = case
    values = 0.5 * ((data.test - energy.mean.detach()) @ p).square().sum(1)
    assert loss(energy, data)["sm_loss_se"] == pytest.approx(float(values.std()) / 600**0.5, rel=1e-9)


def test_random_directions_are_unbiased_with_the_variance_of_theirs(case):
    """v' J v with signs v varies by 2 (|J|^2 - sum J_ii^2) per point and direction, J = -P; the points are the same."""
    energy, data, p, _, _ = case
    exact, k, repeats = loss(energy, data)["sm_loss"], 3, 100
    found = torch.tensor([loss(energy, data, 4, k, seed=i)["sm_loss"] for i in range(repeats)]).double()
    variance = float(2 * (p.square().sum() - p.diagonal().square().sum())) / (600 * k)
    assert abs(float(found.mean()) - exact) < 4 * (variance / repeats) ** 0.5
    assert float(found.var()) == pytest.approx(variance, rel=4 * (2 / repeats) ** 0.5)


def test_baselines_are_gaussians_in_closed_form(case):
    """On the data that they were fitted to: N(mean, scale^2 I) has -d / (2 scale^2), and the full Gaussian, of
    covariance C = cov + 0.001 scale^2 I, has 1/2 tr(C^-2 S) - tr C^-1."""
    energy, data, _, cov, _ = case
    found, d, n = loss(energy, data), 5, 600
    scale2 = float(cov.trace()) / d * n / (n - 1)
    assert data.scale**2 == pytest.approx(scale2)
    expected = 0.5 * d * (n - 1) / n * scale2 / scale2**2 - d / scale2
    assert found["sm_loss_noise"] == pytest.approx(expected, rel=1e-9)
    p = torch.linalg.inv(cov * n / (n - 1) + 1e-3 * scale2 * torch.eye(d))
    assert found["sm_loss_gaussian"] == pytest.approx(float(0.5 * (p @ p @ cov).trace() - p.trace()), rel=1e-9)


def test_the_gap_is_the_fisher_divergence():
    """For data N(m, S) and a Gaussian energy, point by point: 1/2 |s_data - s|^2 in the mean. On finitely many points
    the two differ by less than 4 standard errors of the gap, and for the law itself the gap is 0 at every point."""
    fixed = {"mean": 1.0, "std_min": 0.5, "std_max": 1.5, "correlation": 0.5, "train": 100, "seed": 0}
    data = GaussianData(dim=3, held_out=20_000, **fixed)
    p = torch.linalg.inv(data.law.covariance)
    itself = loss(gaussian_energy(data.law.mean, p).float(), data)
    assert itself["sm_gap"] == pytest.approx(0, abs=1e-4)
    assert itself["sm_loss_true"] == pytest.approx(-0.5 * float(p.trace()), abs=4 * itself["sm_loss_se"])
    wrong = loss(gaussian_energy(data.law.mean + 0.3, 1.5 * p).float(), data)
    x = data.test.double() - data.law.mean
    fisher = 0.5 * (x @ p - (x - 0.3) @ (1.5 * p)).square().sum(1).mean()
    assert abs(wrong["sm_gap"] - float(fisher)) < 4 * wrong["sm_gap_se"] and wrong["sm_gap_se"] < 0.1 * float(fisher)


def test_the_true_loss_of_a_mixture_is_that_of_its_score():
    """Central differences against derivatives: s and tr grad s of the mixture's own log-density, differentiated."""
    data = Mixture(weights=[0.3, 0.7], means=[[-1, 0], [1, 1]], std=0.5, train=100, held_out=50, seed=0)
    values = true_loss(data, data.test)
    x = data.test.double().requires_grad_(True)
    (s,) = torch.autograd.grad(data.law.log_prob(x).sum(), x, create_graph=True)
    trace = sum(torch.autograd.grad(s[:, i].sum(), x, retain_graph=True)[0][:, i] for i in (0, 1))
    s = s.detach()
    torch.testing.assert_close(values, 0.5 * s.square().sum(1) + trace, atol=1e-3, rtol=1e-4)


def test_a_score_network_is_judged_by_its_divergence():
    """s(x) = A x with an A that is no Hessian: 1/2 |A x|^2 + tr A."""

    class Linear(ScoreNetwork):
        def correction(self, u, sigma):
            return u

        def score(self, x, sigma, create_graph=False):
            return x @ matrix.T

    matrix = torch.tensor([[-1.0, 2.0], [0.5, -3.0]])
    data = Points(torch.randn(40, 2, generator=torch.Generator().manual_seed(1)))
    expected = 0.5 * (data.test @ matrix.T).square().sum(1).mean() - 4
    assert loss(Linear(data, 0.1, 1.0, 3), data)["sm_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_no_floor_where_the_density_has_edges():
    data = Checkerboard(squares=4, side=1.0, train=500, held_out=20_000, seed=0)
    assert true_loss(data, data.test) is None


def test_a_kink_is_refused_in_words(generator):
    data = Points(torch.randn(50, 2, generator=generator))
    energy = MLP(
        data, hidden=[8], activation="relu", confine=2.0, confine_shape="isotropic", confine_floor=0.1, base="none"
    )
    view = EvalView(energy, data, "test", None, 4, 4, generator)
    reason = reason_against(ScoreMatchingLoss(exact_dim=64, projections=1, points=10), view)
    assert reason is not None and "no second derivative" in reason


def test_one_point_has_no_standard_error(generator):
    data = Points(torch.randn(50, 2, generator=generator))
    found = loss(gaussian_energy(torch.zeros(2), torch.eye(2)).float(), data, points=1)
    assert "sm_loss_se" not in found and math.isfinite(found["sm_loss"])
