"""The residual energy: known functions, its gradient, independent samples, spectral norms, and resuming with them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, silu

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import frozen, score
from ebm_lab.energies.resnet import ResNet
from tests.helpers import Points
from tests.runs.test_resume import lines, same, state, stop_at

SETTINGS = {
    "channels": [4, 6],
    "blocks": 2,
    "activation": "silu",
    "confine": 2.0,
    "confine_shape": "isotropic",
    "confine_floor": 0.1,
    "base": "none",
}
DIGITS = ["dataset=digits", "energy=resnet", "energy.channels=[4,6]", "energy.spectral_norm=true", "batch_size=16"]
DIGITS += ["logger=none", "samples=5", "sample_steps=10", "log_every=3", "checkpoint_every=4", "eval_every=1000"]
DIGITS += ["sampler.steps=3", "threads=1", "evaluation=[samples,mmd]"]


def make(shape: tuple = (3, 9, 11), spectral_norm: bool = False, **changes: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    data = Points(2 * torch.rand(50, *shape) - 1)
    return ResNet(data, spectral_norm=spectral_norm, **{**SETTINGS, **changes}).double(), data.train.double()


def layers(energy: nn.Module) -> list[Any]:
    return [m for m in energy.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11), (2, 32, 32)])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_one_value_per_sample_whatever_else_is_in_the_batch(shape, spectral_norm):
    energy, x = make(shape, spectral_norm, channels=[4, 6, 8])
    energy.eval()
    e = energy(x[:7])
    assert e.shape == (7,) and float(e.detach().std()) > 0
    alone = torch.cat([energy(x[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, e, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy(x[:7].flip(0)).flip(0), e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_score_is_minus_the_slope(spectral_norm):
    """Central differences along random directions, in float64."""
    energy, x = make(spectral_norm=spectral_norm)
    v = torch.randn(x[:5].shape, generator=torch.Generator().manual_seed(1)).double()
    with frozen(energy):
        slope = (energy(x[:5] + 1e-5 * v) - energy(x[:5] - 1e-5 * v)) / 2e-5
        along = (score(energy, x[:5]) * v).flatten(1).sum(1)
    torch.testing.assert_close(along, -slope, rtol=1e-6, atol=1e-7)
    assert slope.abs().min() > 1e-2


def test_without_branches_it_is_one_convolution_one_average_and_one_sum():
    """All branches' last layers zero, equal widths: pooling is linear, so the net is head(sum a(mean of conv(x)))."""
    energy, x = make((3, 16, 12), channels=[5, 5, 5])
    with torch.no_grad():
        for block in energy.blocks:
            block.branch[-1].weight.zero_()
            block.branch[-1].bias.zero_()
    h = avg_pool2d(nn.functional.conv2d(x, energy.stem.weight, energy.stem.bias, padding=1), 4)
    assert h.shape == (50, 5, 4, 3)
    net = silu(h).sum((2, 3)) @ energy.head.weight[0] + energy.head.bias
    mean = x.mean(0).float().double()
    scale = x.flatten(1).var(0).mean().sqrt()
    quadratic = (((x - mean) / scale) ** 2).flatten(1).sum(1) / (2 * 2.0**2)
    torch.testing.assert_close(energy(x), net + quadratic, rtol=1e-6, atol=1e-5)
    confined, _ = make((3, 16, 12), channels=[5, 5, 5], confine=None)
    confined.load_state_dict(energy.state_dict())
    torch.testing.assert_close(confined(x), net)


def test_one_block_is_its_equation():
    energy, x = make(channels=[4, 7], blocks=1)
    h = energy.stem(x)
    for block, halve in zip(energy.blocks, (True, False), strict=True):
        first, last = block.branch[1], block.branch[3]
        h = block.skip(h) + last(silu(first(silu(h))))
        h = avg_pool2d(h, 2, ceil_mode=True) if halve else h
    assert h.shape[1:] == (7, 5, 6)
    expected = energy.head(silu(h).sum((2, 3))).squeeze(1) + energy.quadratic(x)
    torch.testing.assert_close(energy(x), expected)


def test_every_layer_s_spectral_norm_is_one_in_the_end():
    """Largest singular value of the weight, a kernel as the matrix (out, rest); power iteration is linear in the gap
    between the first two, so 400 calls."""
    energy, x = make(spectral_norm=True)
    with torch.no_grad():
        for layer in layers(energy):
            layer.parametrizations.weight.original *= 3  # the raw weights are far from norm 1
        for _ in range(400):
            energy(x[:1])
    energy.eval()
    assert len(layers(energy)) == 1 + 4 * 2 + 1 + 1
    for layer in layers(energy):
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1.0, abs=1e-4)
    assert not any("parametrizations" in name for name in make()[0].state_dict())


def test_power_iteration_moves_in_training_mode_alone():
    energy, x = make(spectral_norm=True)
    before = {k: v.clone() for k, v in energy.state_dict().items()}
    with frozen(energy):
        first, second = energy(x), energy(x)
    assert torch.equal(first, second) and all(torch.equal(v, before[k]) for k, v in energy.state_dict().items())
    energy(x)
    moved = {k for k, v in energy.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.endswith(("_u", "_v")) for k in moved)


def run(tmp_path, name, *more):
    return ebm_lab.train([*DIGITS, f"output_dir={tmp_path / name}", *more], quiet=True)


@pytest.mark.parametrize("objective", ["pcd", "dsm"])
def test_resuming_evaluating_and_loading_with_spectral_norm_change_no_bit(objective, tmp_path, monkeypatch):
    straight = run(tmp_path, "a", f"objective={objective}", "steps=12")
    often = run(tmp_path, "b", f"objective={objective}", "steps=12", "eval_every=2")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        stopped = run(tmp_path, "c", f"objective={objective}", "steps=12")
    resumed = ebm_lab.train([f"resume={stopped.path}"], quiet=True)
    one, two, three = (state(r.path) for r in (straight, often, resumed))
    for content in (one, two, three):
        content["counters"] = {k: v for k, v in content["counters"].items() if not k.startswith("best")}
    same(one, two)
    same(one, three)
    assert lines(straight.path) == lines(resumed.path)
    assert any(k.endswith("_u") for k in one["objective"])
    x = straight.dataset.test[:20]
    loaded = ebm_lab.load_run(straight.path)
    assert torch.equal(loaded.energy(x), straight.energy(x)) and torch.equal(loaded.energy(x), loaded.energy(x))
    for layer in layers(loaded.energy):  # averaged weights, with the vectors of those in training
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.2)


def test_points_are_refused():
    with pytest.raises(UserError, match=r"energy=resnet: needs images \(C, H, W\), and the data set's samples have"):
        make((7,))
