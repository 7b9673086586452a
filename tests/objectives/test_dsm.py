"""Denoising score matching against its closed form for a Gaussian energy on Gaussian data (theory: DSM of N(m, S))."""

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.dsm import DSM, denoising_score_matching, dsm_control_variate
from tests.helpers import Points, covariance, exact_sample, factor_gradient, gaussian_energy


def setting(d, generator):
    """Data N(m, S) with exact sample moments, and a model N(mu, P^-1) away from it."""
    m = torch.linspace(-1, 1, d, dtype=torch.float64)
    cov, precision = covariance(d, generator), covariance(d, generator)
    x = exact_sample(m, cov, 2000, generator)
    return m, cov, x, m + 0.3, precision


def noise_like(x, generator):
    """Noise with exact moments (mean 0, covariance I) and no correlation with x, so that averages are exact."""
    n, d = x.shape
    joint = torch.cat([x - x.mean(0), torch.randn(n, d, generator=generator, dtype=x.dtype)], 1)
    joint = joint - joint.mean(0)
    factor = torch.linalg.cholesky(joint.T @ joint / n)
    return torch.linalg.solve_triangular(factor, joint.T, upper=False).T[:, d:]


@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_value_and_gradient_are_the_closed_form(d, sigma, generator):
    """J = d/2 - s^2 tr P + s^2/2 tr(P^2 (S' + s^2 I)), S' = S + (m - mu)(m - mu)'; exact for exact sample moments."""
    m, cov, x, mu, precision = setting(d, generator)
    energy = gaussian_energy(mu, precision)
    eps = noise_like(x, generator)
    values, e, s = denoising_score_matching(energy, x, eps, sigma)
    torch.testing.assert_close(s.detach(), -(x + sigma * eps - mu) @ precision)
    torch.testing.assert_close(e, energy(x + sigma * eps))
    value = values.mean()
    value.backward()

    eye, delta = torch.eye(d, dtype=torch.float64), m - mu
    blurred = cov + torch.outer(delta, delta) + sigma**2 * eye
    expected = d / 2 - sigma**2 * precision.trace() + 0.5 * sigma**2 * (precision @ precision @ blurred).trace()
    grad_precision = sigma**2 * (0.5 * (precision @ blurred + blurred @ precision) - eye)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(energy.mean.grad, -(sigma**2) * precision @ precision @ delta, rtol=1e-9, atol=1e-10)
    expected_grad = factor_gradient(grad_precision, energy.factor.detach())
    torch.testing.assert_close(energy.factor.grad.tril(), expected_grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 10])
def test_optimum_is_the_blurred_gaussian(d, generator):
    """The gradient vanishes at mu = m, P = (S + sigma^2 I)^-1, and nowhere near."""
    m, cov, x, _, _ = setting(d, generator)
    sigma, eps = 0.5, noise_like(x, generator)
    optimum = torch.linalg.inv(cov + sigma**2 * torch.eye(d, dtype=torch.float64))
    for scale, size in ((1.0, 0.0), (1.1, 1e-3)):
        energy = gaussian_energy(m, scale * optimum)
        denoising_score_matching(energy, x, eps, sigma)[0].mean().backward()
        assert energy.mean.grad.abs().max() < 1e-10
        if size:
            assert energy.factor.grad.abs().max() > size
        else:
            assert energy.factor.grad.abs().max() < 1e-10


def test_antithetic_noise_is_paired_and_removes_the_odd_part(generator):
    """At the optimum of a unit Gaussian with small sigma, the gradient's variance falls by far more than half."""
    x = torch.randn(64, 1, generator=generator, dtype=torch.float64)
    energy = gaussian_energy(torch.zeros(1).double(), torch.eye(1).double())

    def gradients(antithetic):
        objective = DSM(energy, Points(x), generator, sigma=0.05, antithetic=antithetic, control_variate=False)
        out = []
        for _ in range(200):
            energy.zero_grad()
            objective(Batch(x)).value.backward()
            out.append(float(energy.mean.grad))
        return torch.tensor(out).var()

    assert gradients(True) < 0.05 * gradients(False)


def test_loss_counts_its_gradients_and_keeps_metrics_detached(generator):
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    loss = DSM(energy, Points(x), generator, sigma=0.1, antithetic=True, control_variate=False)(Batch(x))
    assert loss.grad_evals == 2 * 16
    assert not any(value.requires_grad for value in loss.metrics.values())


def test_the_bandwidth_is_the_leave_one_out_maximiser():
    """For n standard normal points in d dimensions the asymptotic bandwidth is (4 / (n (d + 2)))^(1 / (d + 4))."""
    from ebm_lab.distributions.bandwidth import bandwidth

    for n, d in ((2000, 1), (2000, 2), (5000, 5)):
        x = torch.randn(n, d, generator=torch.Generator().manual_seed(n + d))
        expected = (4 / (n * (d + 2))) ** (1 / (d + 4))
        assert bandwidth(x, 1.0) == pytest.approx(expected, rel=0.35)
        assert bandwidth(7 * x, 7.0) == pytest.approx(7 * bandwidth(x, 1.0), rel=0.02)


SETTING = {"s": 1.7, "a": 0.9}
"""Data N(0, s), E = a x^2 / 2: in one dimension every moment of the loss is known."""


def losses(sigma, n, generator, controlled):
    """(Vincent's loss, its derivative in a) per sample, by the project's functions: the project's loss / sigma^2."""
    x = SETTING["s"] ** 0.5 * torch.randn(n, 1, generator=generator).double()
    eps = torch.randn(n, 1, generator=generator).double()
    a = torch.full((n,), SETTING["a"], dtype=torch.float64, requires_grad=True)

    def energy(y):
        return 0.5 * a * y[:, 0] ** 2

    values = denoising_score_matching(energy, x, eps, sigma)[0] / sigma**2
    if controlled:
        values = values - dsm_control_variate(energy, x, eps, sigma) / sigma**2
    values.sum().backward()
    return values.detach(), a.grad


@pytest.mark.parametrize("sigma", [0.3, 0.05])
def test_the_control_variate_keeps_value_and_gradient(sigma, generator):
    """Its mean over the noise is 0: a z-test over 200,000 draws, for the value and for the gradient in a."""
    for plain, controlled in zip(
        losses(sigma, 200_000, generator, False), losses(sigma, 200_000, generator, True), strict=True
    ):
        error = (plain.var() + controlled.var()).div(200_000).sqrt()
        assert abs(float(plain.mean() - controlled.mean())) < 4 * float(error)


def test_the_control_variate_bounds_the_variances(generator):
    """In the units of Vincent's loss, as sigma -> 0: Var(loss) 1 / (2 sigma^4) falls to O(1) and Var(gradient)
    s / sigma^2 to 6.7 (s = 1.7, a = .9, 400,000 draws: within 5 %)."""
    for sigma in (0.1, 0.02):
        value, grad = losses(sigma, 400_000, generator, False)
        assert float(value.var()) * 2 * sigma**4 == pytest.approx(1.0, rel=0.05)
        assert float(grad.var()) * sigma**2 == pytest.approx(SETTING["s"], rel=0.05)
        value, grad = losses(sigma, 400_000, generator, True)
        assert float(value.var()) < 10
        assert float(grad.var()) == pytest.approx(6.7, rel=0.1)


def test_the_control_variate_has_the_half_and_the_sign(generator):
    """With c whole or added the variance of the loss is 10^6 times as large at sigma = .005."""
    x = torch.randn(20_000, 1, generator=generator).double()
    eps = torch.randn(20_000, 1, generator=generator).double()
    energy, sigma = gaussian_energy(torch.zeros(1).double(), torch.eye(1).double()), 0.005
    plain = denoising_score_matching(energy, x, eps, sigma)[0].detach() / sigma**2
    half_c = dsm_control_variate(energy, x, eps, sigma).detach() / sigma**2
    right, whole, added = ((plain - f * half_c).var() for f in (1, 2, -1))
    assert float(right) < 1e-4 * min(float(whole), float(added))


@pytest.mark.parametrize("d", [1, 2, 10])
def test_the_controlled_objective_has_the_closed_form(d, generator):
    """Exact sample moments, noise uncorrelated with the data: its gradient is plain denoising's, in mu and in P."""
    _, _, x, mu, precision = setting(d, generator)
    eps, found = noise_like(x, generator), []
    for controlled in (False, True):
        energy = gaussian_energy(mu, precision)
        values = denoising_score_matching(energy, x, eps, 0.4)[0]
        if controlled:
            values = values - dsm_control_variate(energy, x, eps, 0.4)
        values.mean().backward()
        found.append((values.mean().detach(), energy.mean.grad, energy.factor.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_objective_takes_its_control_variate(generator):
    """Same generator, same noise: the difference of the two losses is the control variate's mean."""
    x = torch.randn(32, 2, generator=generator).double()
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    found = []
    for controlled in (False, True):
        g = torch.Generator().manual_seed(5)
        loss = DSM(energy, Points(x), g, sigma=0.1, antithetic=False, control_variate=controlled)(Batch(x))
        found.append((float(loss.value.detach()), loss.grad_evals))
    eps = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(5))
    expected = float(dsm_control_variate(energy, x, eps, 0.1).detach().mean())
    assert found[0][0] - found[1][0] == pytest.approx(expected, rel=1e-9) and found[0][1:] == (64,)
    assert found[1][1] == 128
    with pytest.raises(UserError, match="needs objective.antithetic=false"):
        DSM(energy, Points(x), generator, sigma=0.1, antithetic=True, control_variate=True)
