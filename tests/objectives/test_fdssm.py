"""Finite-difference sliced score matching: exact for a quadratic energy, right for a kink, safe in float32."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.fdssm import FDSSM, finite_difference_ssm
from ebm_lab.objectives.ssm import sliced_score_matching
from tests.helpers import Points, covariance, exact_sample, factor_gradient, gaussian_energy


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_value_and_gradient_are_implicit_score_matching_s(d, variance_reduced, generator):
    """A quadratic has no third derivative, so any eps gives J exactly, averaged over a basis of v: J = 1/2 tr(P^2 S') -
    tr P with its gradients. A factor sqrt(d) in |v| would show for d > 1."""
    m = torch.linspace(-1, 1, d).double()
    cov, precision = covariance(d, generator), covariance(d, generator)
    x, mu = exact_sample(m, cov, 300, generator), m + 0.3
    energy = gaussian_energy(mu, precision)
    v = (0.3 * torch.eye(d).double()).repeat(len(x), 1)
    value = finite_difference_ssm(energy, x.repeat_interleave(d, 0), v, variance_reduced)[0].mean()
    value.backward()
    delta = m - mu
    second = cov + torch.outer(delta, delta)
    expected = 0.5 * (precision @ precision @ second).trace() - precision.trace()
    grad_precision = 0.5 * (precision @ second + second @ precision) - torch.eye(d).double()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(energy.mean.grad, -precision @ precision @ delta, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        energy.factor.grad.tril(), factor_gradient(grad_precision, energy.factor.detach()), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_point_by_point_it_is_the_sliced_loss_up_to_eps_squared(variance_reduced, generator):
    """A network of tanh: halving eps divides the error by 4."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.randn(50, 3, generator=generator).double()
    u = torch.randn(50, 3, generator=generator).double()
    u = u / u.norm(dim=1, keepdim=True)

    def energy(y):
        return net(y).squeeze(1)

    exact = sliced_score_matching(energy, x, 3**0.5 * u, variance_reduced)[0]
    errors = [
        float((finite_difference_ssm(energy, x, eps * u, variance_reduced)[0] - exact).detach().abs().max())
        for eps in (0.1, 0.05, 0.025)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_a_kink_keeps_its_share_of_the_trace():
    """E = |x| under N(0, 1): J = 1/2 - 2 p(0), of which second derivatives see the 1/2 alone. The finite difference
    averages 2 p over a triangle of half-width eps: 2 p(0) (1 - eps^2 / 12 + ...)."""
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)[:, None]
    p = torch.exp(-0.5 * x[:, 0] ** 2)
    p = p / p.sum()
    eps = 0.1
    values = finite_difference_ssm(lambda y: y[:, 0].abs(), x, torch.full_like(x, eps), True)[0]
    found = float((p * values.detach()).sum())
    kink = 2 / math.sqrt(2 * math.pi) * (1 - eps**2 / 12)
    assert found == pytest.approx(0.5 - kink, abs=1e-5)


def test_the_objective_displaces_by_its_step(generator):
    """|v| = step * scale * sqrt(d), and no gradient in x is taken."""
    x = torch.randn(64, 6, generator=generator).double()
    seen = []

    def energy(y):
        seen.append(y)
        return 0.5 * y.square().sum(1) + 0 * weight

    weight = nn.Parameter(torch.zeros(()).double())
    module = nn.Module()
    module.forward = energy
    objective = FDSSM(module, Points(x), generator, step=0.05, variance_reduced=False, data_noise=0.0)
    loss = objective(Batch(x))
    middle, ahead, behind = seen[0].chunk(3)
    size = torch.full((64,), 0.05 * Points(x).scale * 6**0.5).double()
    torch.testing.assert_close((ahead - middle).norm(dim=1), size)
    torch.testing.assert_close(ahead - middle, middle - behind)
    assert len(seen) == 1 and loss.grad_evals == 3 * 64


def test_the_default_step_is_safe_in_float32(generator):
    """At the YAML's step, rounding moves the loss of a network by less than truncation or 1 % of its trace."""
    from ebm_lab.cli.compose import compose_config

    step = compose_config(["objective=fdssm", "dataset=two_moons"])["objective"]["step"]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    x = torch.randn(2000, 2, generator=generator)
    v = torch.randn(2000, 2, generator=generator)
    v = step * 2**0.5 * v / v.norm(dim=1, keepdim=True)
    single = finite_difference_ssm(lambda y: net(y).squeeze(1) + 10, x, v, False)[0].detach().double()
    net = net.double()
    exact = finite_difference_ssm(lambda y: net(y).squeeze(1) + 10, x.double(), v.double(), False)[0].detach()
    assert float((single - exact).abs().mean()) < 0.01
    assert abs(float((single - exact).mean())) < 1e-3
