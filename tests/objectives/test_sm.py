"""Exact score matching against the closed form for Gaussians, its chunks, and what it costs in memory."""

import pytest
import torch
from torch import nn

from ebm_lab.core.functional import score_and_trace
from ebm_lab.core.interfaces import Batch
from ebm_lab.energies.conv import Conv
from ebm_lab.energies.mlp import MLP
from ebm_lab.objectives.sm import SM, implicit_score_matching
from ebm_lab.objectives.ssm import sliced_score_matching
from tests.helpers import Points, covariance, exact_sample, factor_gradient, faults_of, gaussian_energy


@pytest.mark.parametrize("chunk", [1, 3, 10])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_value_and_gradient_are_the_closed_form(d, chunk, generator):
    """J = 1/2 tr(P^2 S') - tr P, dJ/dP = (P S' + S' P) / 2 - I, dJ/dmu = -P^2 (m - mu)."""
    m = torch.linspace(-1, 1, d).double()
    cov, precision = covariance(d, generator), covariance(d, generator)
    x, mu = exact_sample(m, cov, 200, generator), m + 0.3
    energy = gaussian_energy(mu, precision)
    values, _, s = implicit_score_matching(energy, x, chunk)
    torch.testing.assert_close(s.detach(), -(x - mu) @ precision)
    value = values.mean()
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


@pytest.mark.parametrize("d", [1, 2, 10])
def test_optimum_is_the_data_s_own_precision(d, generator):
    """At P = S^-1 the gradient vanishes and the value is -1/2 tr S^-1; at a tenth more it does not."""
    cov = covariance(d, generator)
    x = exact_sample(torch.zeros(d).double(), cov, 300, generator)
    for factor in (1.0, 1.1):
        energy = gaussian_energy(torch.zeros(d).double(), factor * torch.linalg.inv(cov))
        value = implicit_score_matching(energy, x, d)[0].mean()
        value.backward()
        size = energy.factor.grad.abs().max()
        assert size < 1e-9 if factor == 1.0 else size > 1e-2
        if factor == 1.0:
            assert float(value.detach()) == pytest.approx(-0.5 * float(torch.linalg.inv(cov).trace()), rel=1e-9)


def networks(generator):
    torch.manual_seed(0)
    images = Points(torch.randn(20, 2, 4, 3, generator=generator))
    points = Points(torch.randn(20, 5, generator=generator))
    shared = {"activation": "silu", "confine": 1.0, "confine_shape": "isotropic", "confine_floor": 0.1, "base": "none"}
    return {
        "conv": (Conv(images, channels=[4, 6], hidden=8, **shared).double(), images.train.double()),
        "mlp": (MLP(points, hidden=[8, 8], **shared).double(), points.train.double()),
    }


@pytest.mark.parametrize("which", ["conv", "mlp"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_trace_of_a_network_is_the_sum_over_a_basis_in_value_and_in_gradient(which, chunk, generator):
    """tr(grad s) = sum_i e_i' (grad s) e_i, one sliced product each, images included; so are parameter gradients."""
    energy, x = networks(generator)[which]
    d = x[0].numel()
    implicit_score_matching(energy, x, chunk)[0].sum().backward()
    found = [p.grad.clone() for p in energy.parameters() if p.grad is not None]
    energy.zero_grad()
    basis = (d**0.5 * torch.eye(d, dtype=x.dtype)).repeat(len(x), 1).view(-1, *x.shape[1:])
    values = sliced_score_matching(energy, x.repeat_interleave(d, 0), basis, False)[0]
    (values.sum() / d).backward()
    expected = [p.grad for p in energy.parameters() if p.grad is not None]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    mine = implicit_score_matching(energy, x, chunk)[0]
    torch.testing.assert_close(mine, values.view(len(x), d).mean(1), rtol=1e-9, atol=1e-9)


def test_chunks_keep_one_chunk_s_graph():
    """Bytes that autograd keeps for the backward pass: with chunks they do not grow with the dimension."""

    def kept(d, chunk):
        energy = MLP(
            Points(torch.randn(9, d)),
            hidden=[16, 16],
            activation="silu",
            confine=1.0,
            confine_shape="isotropic",
            confine_floor=0.1,
            base="none",
        )
        total = [0]

        def pack(t):
            total[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            score_and_trace(energy, torch.randn(8, d), chunk)
        return total[0]

    assert kept(64, 4) < 0.3 * kept(64, 64)


def test_a_high_dimension_is_told_and_a_non_smooth_energy_refused(generator):
    smooth, x = nn.Sequential(nn.Linear(2, 4), nn.SiLU()), torch.randn(9, 2)
    assert SM(smooth, Points(x), generator, chunk=2, data_noise=0.0).notes == []
    (note,) = SM(smooth, Points(torch.randn(9, 64)), generator, chunk=2, data_noise=0.0).notes
    assert "64 second derivatives a step, 32 to 64 times the cost of objective=ssm" in note
    kinked = {"energy": nn.Sequential(nn.Linear(2, 4), nn.ReLU())}
    (line,) = faults_of(Points(x), kinked, energy=("mlp", {"activation": "silu"}), objective="sm")
    assert "objective 'sm' differentiates the score, and energy 'mlp' has an activation without a second" in line


def test_the_objective_averages_its_equation(generator):
    x = torch.randn(16, 2, generator=generator).double()
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    loss = SM(energy, Points(x), generator, chunk=2, data_noise=0.0)(Batch(x))
    torch.testing.assert_close(loss.value, implicit_score_matching(energy, x, 2)[0].mean())
    assert loss.grad_evals == 4 * 16
