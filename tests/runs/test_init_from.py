"""An energy that begins from a score network: the same weights, and one line on how far its scores are off."""

import re

import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.energies.noise_unet import NoiseUNet
from ebm_lab.energies.score_unet import ScoreUNet
from ebm_lab.runs.init_from import start_difference
from tests.helpers import Points
from tests.models.test_levels import LADDER, PLAIN
from tests.models.test_unet import Linear

QUICK = ["dataset=digits", "objective=multi_dsm", "logger=none", "evaluation=[]", "batch_size=16", "sampler=edm"]
SMALL = ["energy.channels=[8]", "energy.film_width=8", "energy.levels=4", "threads=1"]


def test_an_energy_begins_from_a_score_network(tmp_path, capsys):
    own = [*QUICK, *SMALL, f"output_dir={tmp_path}"]
    first = ebm_lab.train([*own, "energy=score_unet", "steps=3"], quiet=True)
    begun = [*own, "energy=noise_unet", "energy.form=half", f"init_from={first.path}", "steps=1", "optim.lr=1e-12"]
    second = ebm_lab.train(begun)
    for name, value in first.energy.state_dict().items():
        torch.testing.assert_close(second.energy.state_dict()[name], value, atol=1e-6, rtol=0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init_from: the scores begin")]
    assert len(re.findall(r"[\d.e-]+ at sigma=[\d.]+", line)) == 3
    with pytest.raises(UserError, match="init_from=.*: its energy does not fit: 'net.down_blocks.1.*' is None there"):
        ebm_lab.train([*begun, "energy.blocks=2"], quiet=True)
    ladder = first.energy.ladder
    asked = f"give energy.sigma_min={ladder.sigma_min!r} energy.sigma_max={ladder.sigma_max!r}"
    with pytest.raises(
        UserError, match=f"its noise levels lie between .* and here between 0.03 and .*{re.escape(asked)}"
    ):
        ebm_lab.train([*begun, "energy.sigma_min=0.03"], quiet=True)


def test_the_difference_at_the_start_is_zero_for_a_symmetric_linear_f_and_that_of_the_scores_for_another(generator):
    """F = A u: the energy has (A + A') / 2 in its score s = (scale / sigma F - u) / v, and the network has A. u is near
    N(0, I): the difference is a ratio of Frobenius norms, |scale / sigma (A - A') / 2| / |scale / sigma A - I|."""
    data = Points(torch.randn(200, 1, 2, 2, generator=generator).double(), (-9.0, 9.0))
    settings = {**PLAIN, **LADDER, "channels": [4]}
    energy, network = NoiseUNet(data, form="half", base="none", **settings), ScoreUNet(data, **settings)
    a = torch.randn(4, 4, generator=generator).double()
    for matrix, close in ((a + a.T, True), (a, False)):
        energy.double().net = network.double().net = Linear(matrix, "half")  # pyright: ignore
        (line,) = start_difference(energy, network, data.train)
        found = [float(part) for part in re.findall(r"([\d.e-]+) at sigma", line)]
        assert max(found) < 1e-9 if close else min(found) > 0.01
    half, middle = torch.linalg.matrix_norm((a - a.T) / 2), found[1]
    sigma, s = (5.0 * 0.1) ** 0.5, data.scale
    whole = s / sigma * a - torch.eye(4)
    assert middle == pytest.approx(float(s / sigma * half / torch.linalg.matrix_norm(whole)), rel=0.15)
