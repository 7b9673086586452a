"""Energy discrepancy against its closed form for Gaussians, and its two limits."""

import pytest
import torch

from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives.ed import ED, energy_discrepancy
from scripts.theory.line import normal_nodes
from tests.helpers import Points, covariance, exact_sample, gaussian_energy


def closed_form(precision, second, t):
    """1/2 tr(P S') - 1/2 tr(A (S' + t I)) - 1/2 log |I + t P|, A = (P^-1 + t I)^-1, S' the data's second moment about
    mu; in one dimension (a - A) s / 2 - A t / 2 - 1/2 log(1 + a t)."""
    eye = torch.eye(len(precision)).double()
    a = torch.linalg.inv(torch.linalg.inv(precision) + t * eye)
    return 0.5 * ((precision @ second).trace() - (a @ (second + t * eye)).trace() - torch.logdet(eye + t * precision))


def on_the_line(a, s, t, n=60):
    """(value, d value / d a) for data N(0, s) by quadrature over x, xi and xi', with the objective's own function."""
    precision = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    z, q = normal_nodes(n)
    x = (s**0.5 * z).repeat_interleave(n)[:, None]
    y = x + t**0.5 * z.repeat(n)[:, None]
    around = y + t**0.5 * z[:, None, None]
    values = energy_discrepancy(lambda u: 0.5 * precision * u[:, 0] ** 2, x, around, 0.0, q.log())[0]
    value = (torch.outer(q, q).flatten() * values).sum()
    value.backward()
    return float(value.detach()), float(precision.grad)


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_value_and_gradient_on_the_line_are_the_closed_form(t):
    a, s = torch.tensor([[0.9]], dtype=torch.float64, requires_grad=True), torch.tensor([[1.7]]).double()
    expected = closed_form(a, s, t)
    expected.backward()
    value, grad = on_the_line(0.9, 1.7, t)
    assert value == pytest.approx(float(expected.detach()), abs=1e-8)
    assert grad == pytest.approx(float(a.grad), abs=1e-7)


def test_its_gradient_tends_to_the_likelihood_s_as_t_grows():
    """1/2 (s - 1 / a) = .294444; .294409 at t = 100, by the closed form; the optimum is 1 / s for every t."""
    s = torch.tensor([[1.7]]).double()
    for t, expected in ((100.0, 0.294409), (1e7, 0.294444)):
        a = torch.tensor([[0.9]], dtype=torch.float64, requires_grad=True)
        closed_form(a, s, t).backward()
        assert float(a.grad) == pytest.approx(expected, abs=1e-6)
    for t in (0.05, 0.5):
        assert abs(on_the_line(1 / 1.7, 1.7, t)[1]) < 1e-7


@pytest.mark.parametrize("d", [1, 2, 10])
def test_the_objective_tends_to_the_closed_form_with_many_samples(d, generator):
    """M = 2000, w = 0: the mean of 40 batches within 4.5 standard errors and the bias of order 1 / M."""
    cov, precision = covariance(d, generator), covariance(d, generator)
    x = exact_sample(torch.zeros(d).double(), cov, 60, generator)
    energy, data = gaussian_energy(torch.zeros(d).double(), precision), Points(x)
    blur = 0.3
    objective = ED(energy, data, generator, kernel="gaussian", flip=0.1, blur=blur, samples=2000, w=0.0, data_noise=0.0)
    with torch.no_grad():
        values = torch.stack([objective(Batch(x)).value for _ in range(40)])
    expected = float(closed_form(precision, cov, (blur * data.scale) ** 2))
    assert abs(float(values.mean()) - expected) < 4.5 * float(values.std()) / 40**0.5 + 5e-3 * d / 10


def test_w_joins_the_mean_as_a_point_of_the_datum_s_own_energy(generator):
    """log(w / M + mean exp(E(x) - E(x_i))), directly."""
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    x, around = torch.randn(5, 2, generator=generator).double(), torch.randn(7, 5, 2, generator=generator).double()
    rises = torch.exp(energy(x) - energy(around.flatten(0, 1)).view(7, 5))
    for w in (0.0, 1.0):
        torch.testing.assert_close(energy_discrepancy(energy, x, around, w)[0], (w / 7 + rises.mean(0)).log())


def test_every_energy_of_a_step_is_counted(generator):
    """One at the datum and one at each of its samples."""
    data = Points(torch.randn(20, 2, generator=generator).double())
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    objective = ED(energy, data, generator, kernel="gaussian", flip=0.1, blur=0.5, samples=7, w=1.0, data_noise=0.0)
    assert objective(Batch(data.train)).grad_evals == 20 * 8
