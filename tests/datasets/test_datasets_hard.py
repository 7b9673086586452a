"""Data of several scales, heavy tails and many dimensions: their laws against independent formulas."""

import math

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from ebm_lab.cli.compose import config_dir
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from tests.datasets.test_datasets_synthetic import make

HIGH = ["random_mixture", "gaussian_50d", "two_modes_50d", "two_shapes_50d"]


def option(name, **changes):
    """The data set of the YAML `name`, whatever its class is called."""
    values = yaml.safe_load((config_dir() / "dataset" / f"{name}.yaml").read_text())
    values.pop("defaults")
    return build("dataset", {**values, **changes})


@pytest.mark.parametrize("tails", ["independent", "multivariate"])
@pytest.mark.parametrize("nu", [3.0, 7.5])
def test_student_t_is_scipy_s(tails, nu):
    """Its density to 1e-6, and each coordinate's draws by Kolmogorov's test at 1e-4."""
    data = make("student_t", tails=tails, nu=nu, scale=2.0, dim=3)
    x = data.test[:500].double()
    if tails == "independent":
        known = stats.t(nu, scale=2.0).logpdf(x.numpy()).sum(1)
    else:
        known = stats.multivariate_t(loc=np.zeros(3), shape=4 * np.eye(3), df=nu).logpdf(x.numpy())
    assert data.log_prob(x).numpy() == pytest.approx(known, abs=1e-6)
    for j in range(3):
        assert stats.kstest(data.train[:, j].double().numpy(), stats.t(nu, scale=2.0).cdf).pvalue > 1e-4


def test_the_two_kinds_of_tails_differ_in_what_coordinates_share():
    """Of independent coordinates the squares are not related; around a centre large ones come together: rank
    correlation 0 within 4 standard errors, and far above."""
    for tails, together in (("independent", False), ("multivariate", True)):
        x = make("student_t", tails=tails).train.double().square()
        rho = stats.spearmanr(x[:, 0].numpy(), x[:, 1].numpy()).statistic
        assert rho > 0.1 if together else abs(rho) < 4 / math.sqrt(len(x))


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_the_funnel_is_a_normal_whose_width_is_a_normal_s_exponential(angle):
    """Turned back, its density is scipy's product of factors; v and x / e^(v/2) are normal by Kolmogorov's test."""
    data = make("funnel", angle=angle, dim=3)
    turn = math.radians(angle)
    back = torch.eye(3).double()
    back[:2, :2] = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    raw = data.test[:500].double()
    v, *xs = (raw @ back.T).T
    known = stats.norm(scale=3.0).logpdf(v) + sum(stats.norm(scale=(v / 2).exp()).logpdf(x) for x in xs)
    assert data.log_prob(raw).numpy() == pytest.approx(known, abs=1e-5)
    v, x, _ = (data.train.double() @ back.T).T
    assert stats.kstest((v / 3.0).numpy(), "norm").pvalue > 1e-4
    wide = v > -6  # float32 keeps the digits of x there, after a turn too
    assert stats.kstest((x / (v / 2).exp())[wide].numpy(), "norm").pvalue > 1e-4


def test_stretching_and_turning_keeps_every_gap():
    """Taken back to the plane before the stretch, the density is that of the mixture there times the map's
    determinant."""
    data, plain = make("stretched"), make("mixture")
    c = math.sqrt(0.5)
    linear = torch.tensor([[c, -c], [c, c]]).double() @ torch.diag(torch.tensor([1.0, 0.01]).double())
    x = data.test[:500].double()
    known = plain.log_prob(torch.linalg.solve(linear, x.T).T) - math.log(0.01)
    assert torch.allclose(data.log_prob(x), known, atol=1e-9)
    eigenvalues = torch.linalg.eigvalsh(data.law.covariances[0])
    assert eigenvalues.tolist() == pytest.approx([0.16e-4, 0.16], rel=1e-6)


@pytest.mark.parametrize("name", HIGH)
def test_random_mixtures_have_the_condition_and_separation_that_they_are_given(name):
    """All pairs of means are equally far apart in the average covariance's metric, each covariance's extreme
    eigenvalues have the ratio `condition`, and the data's mean is the law's within 5 standard errors."""
    data = option(name)
    values = yaml.safe_load((config_dir() / "dataset" / f"{name}.yaml").read_text())
    law, k = data.law, len(values["weights"])
    for covariance in law.covariances:
        e = torch.linalg.eigvalsh(covariance)
        assert float(e[-1] / e[0]) == pytest.approx(values["condition"], rel=1e-6)
    assert values["shared"] == torch.equal(law.covariances[0], law.covariances[-1])
    inverse = torch.linalg.inv(law.covariances.mean(0))
    for i in range(k):
        for j in range(i):
            gap = law.means[i] - law.means[j]
            assert float(gap @ inverse @ gap) == pytest.approx(values["separation"] ** 2, rel=1e-6)
    x = data.train.double()
    mean = law.odds @ law.means
    spread = law.means - mean
    covariance = torch.einsum("k,kij->ij", law.odds, law.covariances) + (law.odds * spread.T) @ spread
    errors = (x.mean(0) - mean) / (covariance.diagonal() / len(x)).sqrt()
    assert float(errors.abs().max()) < 5
    parts = [torch.distributions.MultivariateNormal(m, s) for m, s in zip(law.means, law.covariances, strict=True)]
    known = torch.stack([w.log() + p.log_prob(x[:200]) for w, p in zip(law.odds, parts, strict=True)]).logsumexp(0)
    assert torch.allclose(data.log_prob(x[:200]), known, atol=1e-6)


def test_more_means_than_corners_are_refused():
    with pytest.raises(UserError, match=r"dataset.weights=.*at most 3 points of 2 coordinates"):
        option("random_mixture", dim=2, weights=[1.0, 1.0, 1.0, 1.0])
