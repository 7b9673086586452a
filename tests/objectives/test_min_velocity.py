"""Minimum velocity learning: score matching up to the square of the step, and its variance with the control variate."""

import math

import pytest
import torch

from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.fdssm import finite_difference_ssm
from ebm_lab.objectives.min_velocity import MinimumVelocity, minimum_velocity
from scripts.theory.line import THETA, LineEnergy, data, normal_nodes, under
from scripts.theory.line import with_noise as noisy
from tests.helpers import Points, covariance, exact_sample, factor_gradient, gaussian_energy

A = 0.9


@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_value_and_gradient_are_implicit_score_matching_s(d, control_variate, generator):
    """A quadratic has no third derivative, so any step gives J = 1/2 tr(P^2 S') - tr P exactly, with its gradients, in
    the mean over the z = +-sqrt(d) e_i, whose covariance is I."""
    m = torch.linspace(-1, 1, d).double()
    cov, precision = covariance(d, generator), covariance(d, generator)
    x, mu = exact_sample(m, cov, 100, generator), m + 0.3
    energy = gaussian_energy(mu, precision)
    z = d**0.5 * torch.cat([torch.eye(d), -torch.eye(d)]).double().repeat(len(x), 1)
    values, e, s = minimum_velocity(energy, x.repeat_interleave(2 * d, 0), z, 0.3, control_variate)
    value = values.mean()
    value.backward()
    delta = m - mu
    second = cov + torch.outer(delta, delta)
    expected = 0.5 * (precision @ precision @ second).trace() - precision.trace()
    grad_precision = 0.5 * (precision @ second + second @ precision) - torch.eye(d).double()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(s[:: 2 * d].detach(), -(x - mu) @ precision)
    torch.testing.assert_close(e[:: 2 * d], energy(x))
    torch.testing.assert_close(energy.mean.grad, -precision @ precision @ delta, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        energy.factor.grad.tril(), factor_gradient(grad_precision, energy.factor.detach()), rtol=1e-8, atol=1e-8
    )


def test_it_tends_to_score_matching_as_the_square_of_the_step():
    """On the line's mixture, by quadrature: J = -.1458713, and half the step has a quarter of the error."""
    energy, (x, p) = LineEnergy(THETA), under(data())
    points, z, w = noisy(x, p)
    errors = []
    for step in (0.4, 0.2, 0.1):
        values = minimum_velocity(energy, points, z, step, True)[0].detach()
        errors.append(float((w * values).sum()) + 0.1458713)
    assert abs(errors[-1]) < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("control_variate, expected", [(True, 1.62), (False, 549.18)])
def test_the_control_variate_bounds_the_variance(control_variate, expected):
    """E = .9 x^2 / 2 at x = 1.3, e = .1: the mean is J, the variance 2 a^2, and 2 a^2 + 4 a^2 x^2 / e^2 without it."""
    x, step = 1.3, 0.1
    z, w = normal_nodes()
    energy = gaussian_energy(torch.zeros(1).double(), torch.tensor([[A]], dtype=torch.float64))
    points = torch.full((len(z), 1), x, dtype=torch.float64)
    values = minimum_velocity(energy, points, z[:, None], step, control_variate)[0].detach()
    mean = float((w * values).sum())
    assert mean == pytest.approx(0.5 * (A * x) ** 2 - A, rel=1e-9)
    exact = 2 * A**2 + (0 if control_variate else 4 * A**2 * x**2 / step**2)
    assert float((w * (values - mean) ** 2).sum()) == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(expected, abs=0.01)


def test_the_mean_of_both_signs_is_the_finite_difference_form(generator):
    """With |z| = sqrt(d), half the sum over z and -z is fdssm's variance-reduced loss of v = e z, with or without the
    control variate."""
    energy = gaussian_energy(torch.zeros(3).double(), covariance(3, generator))
    bent = lambda y: energy(y) + y.sin().sum(1)  # noqa: E731
    x, z = (torch.randn(20, 3, generator=generator).double() for _ in range(2))
    z = z * 3**0.5 / z.norm(dim=1, keepdim=True)
    for control_variate in (False, True):
        both = sum(minimum_velocity(bent, x, sign * z, 0.2, control_variate)[0] for sign in (1, -1)) / 2
        torch.testing.assert_close(both, finite_difference_ssm(bent, x, 0.2 * z, True)[0])


def test_lengths_are_in_units_of_the_scale_and_costs_are_counted(generator):
    points = Points(7 * torch.randn(300, 2, generator=generator).double())
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    objective = MinimumVelocity(energy, points, generator, step=0.1, control_variate=True, data_noise=0.2)
    assert objective.step == pytest.approx(0.1 * points.scale)
    assert objective.data_noise == pytest.approx(0.2 * points.scale)
    assert objective.sees_within() == pytest.approx(points.scale * math.hypot(0.1, 0.2))
    quiet = MinimumVelocity(energy, points, generator, step=0.1, control_variate=True, data_noise=0.0)
    x = points.train
    loss = quiet(Batch(x))
    assert loss.grad_evals == 900
    assert float(loss.metrics["score_norm"]) == pytest.approx(float(x.norm(dim=1).mean()))
    expected = 0.5 * float(x.square().sum(1).mean()) - 2
    assert float(loss.value.detach()) == pytest.approx(expected, abs=5 * (2 * 2 / 300) ** 0.5)
