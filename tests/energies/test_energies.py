"""Energies: the fixed quadratic that makes Z exist, in closed form."""

import pytest
import torch

from ebm_lab.energies.mlp import MLP
from ebm_lab.models.layers import Quadratic
from tests.helpers import Points, covariance, exact_sample


@pytest.mark.parametrize("shape", ["isotropic", "covariance"])
@pytest.mark.parametrize("width, floor", [(1.0, 0.25), (2.0, 0.1)])
def test_the_quadratic_is_the_gaussian_that_it_says(generator, shape, width, floor):
    """1/2 u' (width^2 C)^-1 u, u = x - mean: C = scale^2 I, or the covariance plus floor * scale^2 * I."""
    cov = covariance(3, generator)
    data = Points(exact_sample(torch.tensor([1.0, -2.0, 0.5]).double(), cov, 400, generator))
    cov = cov * 400 / 399  # the sample's unbiased covariance
    scale2 = cov.diagonal().mean()
    c = scale2 * torch.eye(3) if shape == "isotropic" else cov + floor * scale2 * torch.eye(3)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    u = x - data.mean
    expected = 0.5 * (u @ torch.linalg.inv(width**2 * c.double()) * u).sum(1)
    torch.testing.assert_close(Quadratic(data, width, shape, floor)(x), expected)


def test_a_network_that_gives_zero_leaves_the_quadratic(generator):
    data = Points(torch.randn(50, 4, generator=generator))
    energy = MLP(
        data, hidden=[8], activation="silu", confine=2.0, confine_shape="covariance", confine_floor=0.1, base="none"
    )
    torch.nn.init.zeros_(energy.net[-1].weight)
    torch.nn.init.constant_(energy.net[-1].bias, 3.0)
    torch.testing.assert_close(energy(data.train), 3.0 + energy.quadratic(data.train))


def test_without_a_width_there_is_no_quadratic(generator):
    assert Quadratic(Points(torch.randn(9, 2, generator=generator)), None, "isotropic", 0.1)(torch.ones(3, 2)) == 0.0
