"""Layers with second derivatives of their own, against finite differences and torch's layers, in float64.

The formulas are the same sums in another order: 1e-12 of the size is thousands of roundings.
"""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

from ebm_lab.core import functional
from ebm_lab.core.twice import differentiated_twice
from ebm_lab.models import curved
from ebm_lab.models.curved import Conv2d, GroupNorm, SiLU

LAYERS = {
    "silu": (SiLU, nn.SiLU, ()),
    "norm": (GroupNorm, nn.GroupNorm, (2, 4)),
    "norm without weights": (GroupNorm, nn.GroupNorm, (4, 4, 1e-5, False)),
    "convolution": (Conv2d, nn.Conv2d, (4, 3, 3, 1, 1)),
    "convolution with strides": (Conv2d, nn.Conv2d, (4, 3, 3, 2, 1)),
    "convolution of points": (Conv2d, nn.Conv2d, (4, 3, 1, 1, 0, 1, 1, False)),
}
SPREAD = torch.channels_last, torch.contiguous_format


@pytest.fixture(autouse=True)
def twice(monkeypatch):
    """As within a loss of the score."""
    monkeypatch.setattr(curved, "differentiated_twice", lambda: True)


def pair(name):
    """The lab's layer and torch's, with the same weights."""
    torch.manual_seed(0)
    own, usual, arguments = LAYERS[name]
    mine, theirs = own(*arguments).double(), usual(*arguments).double()
    for p in mine.parameters():
        nn.init.normal_(p)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def images(layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 5, 4, generator=generator, dtype=torch.float64)
    return x.to(memory_format=layout).requires_grad_(True)


def first(layer, x):
    y = layer(x)
    return [y, *grad((y**3).sum(), [x, *layer.parameters()])]


def score_loss(layer, x):
    """As in denoising score matching: the square of a gradient in x, and of the energy."""
    e = (layer(x) ** 3).sum()
    (s,) = grad(e, x, create_graph=True)
    return grad((s * s).sum() + e * e, [x, *layer.parameters()])


def sliced_loss(layer, x):
    """As in sliced score matching: v' Hess v, and the parameters' gradient of its square."""
    v = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    (s,) = grad((layer(x) ** 3).sum(), x, create_graph=True)
    (h,) = grad((s * v).sum(), x, create_graph=True)
    return grad((h * h).sum(), [x, *layer.parameters()])


@pytest.mark.parametrize("ask", [first, score_loss, sliced_loss])
@pytest.mark.parametrize("layout", SPREAD)
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_are_those_of_torch_s_layer(name, layout, ask):
    for mine, theirs in zip(*(ask(layer, images(layout)) for layer in pair(name)), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12 * theirs.abs().max().item())


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_are_finite_differences(name):
    layer, _ = pair(name)
    x = images()[:1, :, :2, :2].detach().requires_grad_(True)
    assert gradcheck(layer, x) and gradgradcheck(layer, x)


def test_a_second_derivative_of_torch_s_is_not_called(monkeypatch):
    """A planted fault in the layers' own formulas shows in the loss: these formulas are what is used."""
    layer, _ = pair("silu")
    right = score_loss(layer, images())
    slope = torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *a: 1.1 * slope(*a))
    assert not torch.allclose(score_loss(layer, images())[0], right[0], rtol=1e-3)


def test_the_weights_gradient_of_a_convolution_is_computed_only_if_it_is_asked_for():
    layer, x = pair("convolution")[0], images()

    def products():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=False) as seen:
            y = layer(x)
            grad((y**3).sum(), x)
        alone = sum(e.count for e in seen.key_averages() if e.key == "aten::convolution_backward")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            grad((layer(x) ** 3).sum(), [x, *layer.parameters()])
        return alone, sum(e.count for e in seen.key_averages() if e.key == "aten::convolution_backward")

    assert products() == (1, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_of_gradients_that_is_dropped_frees_its_memory_at_once(name):
    """Without the garbage collector, which does not see into torch's graphs."""
    layer, _ = pair(name)
    after = nn.Sequential(layer, nn.Tanh())
    gc.disable()
    try:
        x = images()
        (s,) = grad(after(x).sum(), x, create_graph=True)
        kept = weakref.ref(s.grad_fn), weakref.ref(x)
        del s, x
        assert all(ref() is None for ref in kept)
    finally:
        gc.enable()


def test_a_loss_of_the_score_asks_for_these_layers_and_no_other_does(monkeypatch):
    monkeypatch.setattr(curved, "differentiated_twice", differentiated_twice)
    x, asked, (layer, _) = images(), [], pair("norm")

    def energy(x):
        asked.append(differentiated_twice())
        return layer(x).square().flatten(1).sum(1)

    functional.energy_and_grad(energy, x)
    functional.energy_and_grad(energy, x, create_graph=True)
    functional.score_and_product(energy, x, torch.ones_like(x))
    functional.score_and_trace(energy, x[:, :, :2, :2], 8)  # by a batch of backward passes, which no own layer takes
    energy(x)
    assert asked == [False, True, True, *[False] * (len(asked) - 3)] and len(asked) > 4


@pytest.mark.parametrize("name", LAYERS)
def test_without_a_derivative_in_x_it_is_torch_s_layer(name):
    mine, theirs = pair(name)
    x = images().detach()
    assert torch.equal(mine(x), theirs(x))
    with torch.no_grad():
        assert torch.equal(mine(images()), theirs(x))
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_a_derivative_of_the_weights_gradient_is_refused():
    layer, x = pair("convolution")[0], images()
    with pytest.raises(RuntimeError, match=r"use torch\.nn\.Conv2d"):
        grad((layer(x) ** 3).sum(), layer.weight, create_graph=True)


def test_mixed_precision_has_torch_s_layers():
    mine, theirs = (copy.deepcopy(layer).float() for layer in pair("convolution"))
    x = images().detach().float().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mine(x), theirs(x))
