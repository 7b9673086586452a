"""What several objectives share."""

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.registry import build
from tests.helpers import Points, gaussian_energy


@pytest.mark.parametrize("name", ["sm", "fdssm", "cnce", "mpf", "ed", "min_velocity"])
def test_data_noise_is_in_units_of_the_data_s_scale(name, generator):
    """E = |x|^2 / 2 at data of one point repeated, noise of half the scale: mean E = |x|^2 / 2 + d (scale / 2)^2 / 2,
    that of 20,000 draws within 5 standard errors."""
    data = Points(4 * torch.randn(500, 2, generator=generator).double())
    energy, std = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), 0.5 * data.scale
    values = compose_config([f"objective={name}", "dataset=two_moons"])["objective"] | {"data_noise": 0.5}
    objective = build("objective", values, energy=energy, dataset=data, generator=generator)
    x = torch.tensor([[1.0, 2.0]]).double().expand(20_000, 2)
    error = (std**4 * 2 * 2 / 4 + 5 * std**2) ** 0.5 / 20_000**0.5
    assert float(objective(Batch(x)).metrics["e_pos"]) == pytest.approx(2.5 + std**2, abs=5 * error)
