"""Points as bits in Gray code: neighbours differ in one bit, decoding inverts encoding, and the law is a law."""

import math

import pytest
import torch
import yaml

from ebm_lab.cli.compose import config_dir
from ebm_lab.core.discrete import sites_of
from ebm_lab.datasets.gray_code import REACH, SETTINGS
from ebm_lab.distributions.gray import GrayCode
from tests.datasets.test_datasets_synthetic import make

FEW = {"train": 2000, "held_out": 200}


def test_neighbours_differ_in_one_bit_and_all_codes_are_there():
    """Along one axis of 8 bits, cell by cell; the first code is 0...0, and the high bit changes in the middle."""
    code = GrayCode(8, 32.0)
    axis = (torch.arange(256).double() + 0.5 - 128) / 32
    bits = code.encode(torch.stack([axis, torch.zeros(256, dtype=torch.float64)], 1))
    assert bool(((bits[1:] - bits[:-1]).abs().sum(1) == 1).all())
    assert len(bits.unique(dim=0)) == 256 and bits.dtype == torch.float32
    assert bits[0, :8].tolist() == [0.0] * 8 and bits[255, :8].tolist() == [1.0, *[0.0] * 7]
    assert bits[5, :8].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]  # 5 xor 2
    assert bits[127, 0] == 0 and bits[128, 0] == 1
    torch.testing.assert_close(code.decode(bits)[:, 0], axis, atol=1e-12, rtol=0)


@pytest.mark.parametrize("per_axis", [8, 16, 20])
def test_decoding_inverts_encoding(per_axis, generator):
    """To half a cell; the centre of a cell is encoded as itself; points outside are clipped to the last cell."""
    code = GrayCode(per_axis, 2 ** (per_axis - 1) / 4)
    points = 8 * torch.rand(1000, 2, dtype=torch.float64, generator=generator) - 4
    bits = code.encode(points)
    centres = code.decode(bits)
    assert bits.shape == (1000, 2 * per_axis)
    assert float((centres - points).abs().max()) <= 0.5 / code.scale
    assert torch.equal(code.encode(centres), bits)
    far = code.decode(code.encode(torch.tensor([[9.0, -9.0], [4.0, -4.0]])))
    edge = 4 - 0.5 / code.scale
    assert far.tolist() == [[edge, -edge]] * 2


@pytest.mark.parametrize("toy", SETTINGS)
def test_the_toys_are_the_lab_s_own_and_their_bits_have_mass_one(toy):
    """At 16 bits all 65,536 cells sum to 1 within 1e-3, and each split decodes to points of its density: their mean
    log p lies within 4 standard errors, and 0.02 for the width of the cells, of that of the toy's own points. Of those
    100,000 lie inside the square."""
    values = yaml.safe_load((config_dir() / "dataset" / f"{toy}.yaml").read_text())
    sizes = ("defaults", "name", "train", "held_out", "seed")
    assert SETTINGS[toy] == {k: v for k, v in values.items() if k not in sizes}
    coarse = make("gray_code", toy=toy, bits=16, **FEW)
    mass = sum(float(coarse.log_prob(x).exp().sum()) for x in sites_of(coarse).every(coarse.train[:1]))
    assert mass == pytest.approx(1, abs=1e-3)
    fine, plain = make("gray_code", toy=toy, **FEW), make(toy, train=100_000)
    reach = REACH.get(toy, 4.0)
    assert fine.code.scale == 2**15 / reach and float(plain.train.abs().max()) < reach
    shift = 2 * math.log(fine.code.scale)
    for data in (coarse, fine):
        log_p = data.log_prob(data.train)
        own = plain.log_prob(plain.train[:2000]).double() - 2 * math.log(data.code.scale)
        error = math.sqrt(float(log_p.var() + own.var()) / 2000)
        assert abs(float(log_p.mean() - own.mean())) < 4 * error + (0.02 if data is coarse else 1e-6)
    points = fine.points(fine.val)
    assert points.shape == (200, 2)
    torch.testing.assert_close(fine.log_prob(fine.val) + shift, plain.log_prob(points).double(), atol=1e-6, rtol=0)


def test_the_floor_of_eight_gaussians():
    """h + 2 log 8192 = 19.720 nats, from the entropy of a Gaussian and log 8, within 4 standard errors (the standard
    deviation of log p is 1)."""
    data = make("gray_code")
    floor = math.log(8) + 1 + math.log(2 * math.pi * 0.2**2) + 2 * math.log(8192)
    assert floor == pytest.approx(19.720, abs=5e-4) and data.event_shape == (32,)
    assert abs(-float(data.log_prob(data.train).mean()) - floor) < 4 / math.sqrt(100_000)
