"""Sliced score matching against the closed form for Gaussians, its variances, and the faults seen elsewhere."""

import pytest
import torch
from torch import nn

from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.ssm import SSM, projections, sliced_score_matching
from tests.helpers import Points, covariance, exact_sample, factor_gradient, faults_of, gaussian_energy

LAWS = ("gaussian", "rademacher", "sphere")


def setting(d, generator):
    m = torch.linspace(-1, 1, d).double()
    cov, precision = covariance(d, generator), covariance(d, generator)
    return m, cov, exact_sample(m, cov, 500, generator), m + 0.3, precision


def basis(x):
    """Each point with each of the d directions sqrt(d) e_i: E[v v'] = I exactly."""
    n, d = x.shape
    eye = d**0.5 * torch.eye(d, dtype=x.dtype)
    return x.repeat_interleave(d, 0), eye.repeat(n, 1)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_value_and_gradient_are_implicit_score_matching_s(d, variance_reduced, generator):
    """J = 1/2 tr(P^2 S') - tr P, dJ/dP = (P S' + S' P) / 2 - I, dJ/dmu = -P^2 (m - mu); exact over a basis of v."""
    m, cov, x, mu, precision = setting(d, generator)
    energy = gaussian_energy(mu, precision)
    value = sliced_score_matching(energy, *basis(x), variance_reduced)[0].mean()
    value.backward()
    delta = m - mu
    second = cov + torch.outer(delta, delta)
    expected = 0.5 * (precision @ precision @ second).trace() - precision.trace()
    grad_precision = 0.5 * (precision @ second + second @ precision) - torch.eye(d).double()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energy.mean.grad, -precision @ precision @ delta, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        energy.factor.grad.tril(), factor_gradient(grad_precision, energy.factor.detach()), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_optimum_is_the_data_s_own_precision(d, variance_reduced, generator):
    """The gradient vanishes at mu = m, P = S^-1: a trace divided by d would learn P = S^-1 / d instead."""
    m, cov, x, _, _ = setting(d, generator)
    for scale in (1.0, 1.0 / max(d, 2)):
        energy = gaussian_energy(m, scale * torch.linalg.inv(cov))
        sliced_score_matching(energy, *basis(x), variance_reduced)[0].mean().backward()
        size = energy.factor.grad.abs().max()
        assert size < 1e-9 if scale == 1.0 else size > 1e-2


@pytest.mark.parametrize("law", LAWS)
def test_projections_have_identity_covariance_and_their_own_shape(law, generator):
    v = projections(torch.empty(40_000, 3, 2), law, generator).flatten(1).double()
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(6).double(), atol=0.035, rtol=0)  # 5 standard errors
    if law == "sphere":
        torch.testing.assert_close(v.norm(dim=1), torch.full((40_000,), 6**0.5).double(), rtol=1e-5, atol=0)
    if law == "rademacher":
        assert set(v.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variance_reduced", [False, True])
def test_variance_over_projections_is_the_closed_form(law, variance_reduced, generator):
    """At a fixed x, with M = J (reduced) or J + s s' / 2 (plain), J = -P: Gaussian 2 |M|^2; Rademacher
    2 (|M|^2 - sum M_ii^2); sphere 2 d / (d + 2) (|M|^2 - (tr M)^2 / d). 200,000 draws: within 3 %."""
    d, n = 3, 200_000
    precision = covariance(d, generator)
    energy = gaussian_energy(torch.zeros(d).double(), precision)
    x = torch.tensor([[0.7, -0.4, 1.1]]).double().expand(n, d)
    v = projections(x.clone(), law, generator)
    with torch.no_grad():
        s = -x[0] @ precision
    values = sliced_score_matching(energy, x, v, variance_reduced)[0].detach()
    matrix = -precision if variance_reduced else -precision + 0.5 * torch.outer(s, s)
    square, trace = matrix.square().sum(), matrix.trace()
    expected = {
        "gaussian": 2 * square,
        "rademacher": 2 * (square - matrix.diagonal().square().sum()),
        "sphere": 2 * d / (d + 2) * (square - trace**2 / d),
    }[law]
    assert float(values.var()) == pytest.approx(float(expected), rel=0.03)


def test_value_does_not_depend_on_the_layout_of_the_data(generator):
    """Images give what their flat copies give."""
    energy = gaussian_energy(torch.zeros(12).double(), covariance(12, generator))
    x, v = torch.randn(5, 12, generator=generator).double(), torch.randn(5, 12, generator=generator).double()
    flat = sliced_score_matching(energy, x, v, False)[0]
    image = sliced_score_matching(energy, x.view(5, 3, 2, 2), v.view(5, 3, 2, 2), False)[0]
    torch.testing.assert_close(flat, image)


def test_many_projections_average_over_the_same_points(generator):
    """Five projections cut the variance of the batch loss over v by five (within 30 %, 400 repetitions)."""
    x = torch.randn(4, 3, generator=generator).double()
    energy = gaussian_energy(torch.zeros(3).double(), covariance(3, generator))

    def spread(count):
        settings = {"projection": "gaussian", "variance_reduced": True, "projections": count, "data_noise": 0.0}
        objective = SSM(energy, Points(x), generator, **settings)
        return torch.stack([objective(Batch(x)).value.detach() for _ in range(400)]).var()

    assert float(spread(1) / spread(5)) == pytest.approx(5, rel=0.3)


def test_noise_on_the_data_has_the_given_std_and_gradients_are_counted(generator):
    """The energy sees x + 0.2 * scale * z; three gradients per point and projection."""
    data = Points(3 * torch.randn(4000, 1, generator=generator).double())
    seen = []

    class Record(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return x.square().sum(1)

    settings = {"projection": "gaussian", "variance_reduced": True, "projections": 2}
    loss = SSM(Record(), data, generator, data_noise=0.2, **settings)(Batch(torch.zeros(4000, 1).double()))
    assert float(seen[-1].std()) == pytest.approx(0.2 * data.scale, rel=0.05)  # 4 standard errors of 4,000 draws
    assert loss.grad_evals == 3 * 2 * 4000
    SSM(Record(), data, generator, data_noise=0.0, **settings)(Batch(torch.zeros(4, 1).double()))
    assert torch.equal(seen[-1], torch.zeros(8, 1).double())


def test_a_non_smooth_energy_is_refused(generator):
    (line,) = faults_of(Points(torch.randn(9, 2)), energy=("mlp", {"activation": "relu"}), objective="ssm")
    assert "an activation without a second derivative: choose energy.activation=silu" in line
