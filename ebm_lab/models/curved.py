"""Convolution, group normalisation and SiLU whose second derivatives are cheap.

A loss of the score differentiates an energy's gradient once more. Torch then takes the gradient of a convolution's
weights by a convolution with a kernel of the image's size, which is more expensive than it need be, and splits the
derivatives of the other two layers into dozens of operations. With cotangents g of the layer and c of its
derivative in x:

    conv(x) = W * x + b:    g -> W' * g                          once more: W * c,  and to W as from x = c
    silu(x) = x s:          g -> g a'                            once more: c a',  c g a''
    norm(x) = y:            g -> B(g) = r (g - <g> - y <g y>)    once more: B(c),
                            -r^2 (<g y> c + <c y> g + (<c g> - <c> <g> - 3 <c y> <g y>) y - <g y> <c> - <c y> <g>)

with s = sigmoid(x), a' = s + silu(x) (1 - s), a'' = (1 - s) (2 a' - silu(x)); and y = (x - mean) r,
r = (var + eps)^-1/2 over the numbers of a group, <u> the mean of u over them. These formulas can be differentiated in
turn, as sliced score matching does.

Yuxin Wu and Kaiming He, Group Normalization, 2018, arXiv:1803.08494, equation 1.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.twice import differentiated_twice, mixed_precision

_aten = torch.ops.aten


def _usual(x: Tensor) -> bool:
    """Return whether torch's own layer does: no second derivative is asked for, or the precision is mixed."""
    return mixed_precision() or not (differentiated_twice() and x.requires_grad and torch.is_grad_enabled())


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _SiLUSlope.apply(g, *ctx.saved_tensors)  # pyright: ignore[reportReturnType]


class _SiLUSlope(torch.autograd.Function):
    """(g, x) -> g a'."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return _aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, x = ctx.saved_tensors
        s = x.sigmoid()
        a, v = x * s, 1 - s
        slope = torch.addcmul(s, a, v)
        return c * slope, (2 * slope - a) * v * (c * g)


class SiLU(nn.SiLU):
    """x sigmoid(x), as in the header."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if _usual(input) else _SiLU.apply(input)  # pyright: ignore[reportReturnType]


def _mean(u: Tensor, groups: int) -> Tensor:
    """Compute the mean of each group, (N, groups, 1, ..., 1), of u (N, C, *space), over its channels and positions.

    Positions first: in either memory layout that is a sum over whole rows.
    """
    space = tuple(range(2, u.ndim))
    return u.mean(space).unflatten(1, (groups, -1)).mean(2).view(len(u), groups, *[1] * len(space))


def _wide(t: Tensor, channels: int) -> Tensor:
    """Repeat a number per group for each of its channels: (N, groups, 1, ..., 1) -> (N, channels, 1, ..., 1)."""
    return t.repeat_interleave(channels // t.shape[1], 1)


class _Normalise(torch.autograd.Function):
    """x (N, C, *space) -> y, with mean 0 and variance 1 in each of `groups`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, eps: float) -> Tensor:
        n, channels = x.shape[:2]
        y, mean, r = torch.native_group_norm(x, None, None, n, channels, x[0, 0].numel(), groups, eps)
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(x, y, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y, mean, r = ctx.saved_tensors
        return _NormaliseSlope.apply(g, x, y.detach(), mean, r, ctx.groups, ctx.eps), None, None


class _NormaliseSlope(torch.autograd.Function):
    """(g, x) -> B(g), with y, mean and r of x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, y: Tensor, mean: Tensor, r: Tensor, groups: int, eps: float) -> Tensor:
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(g, x, y, r)
        n, channels = x.shape[:2]
        sizes = (n, channels, x[0, 0].numel(), groups)
        return _aten.native_group_norm_backward(g, x, mean, r, None, *sizes, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, x, y, r = ctx.saved_tensors
        channels, groups = x.shape[1], ctx.groups
        r = r.view(*r.shape, *[1] * (x.ndim - 2))
        if torch.is_grad_enabled():  # the formulas below are differentiated in turn: y and r are functions of x
            y = x - _wide(_mean(x, groups), channels)
            r = (_mean(y * y, groups) + ctx.eps).rsqrt()
            y = y * _wide(r, channels)
        c_1, g_1, c_y, g_y, c_g = (_mean(u, groups) for u in (c, g, c * y, g * y, c * g))
        q = -r * r
        k = q * (c_g - c_1 * g_1 - 3 * c_y * g_y)
        to_x = _sum(-q * (g_y * c_1 + c_y * g_1), (c, q * g_y), (g, q * c_y), (y, k))
        return _sum(-r * c_1, (c, r), (y, -r * c_y)), to_x, None, None, None, None, None


def _sum(start: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """Compute start + sum of u t over the terms (u, t), where start and every t have one number per group."""
    channels = terms[0][0].shape[1]
    out = _wide(start, channels)
    for u, t in terms:
        out = torch.addcmul(out, u, _wide(t, channels))
    return out


class GroupNorm(nn.GroupNorm):
    """y, or weight y + bias with a weight and a bias per channel, as in the header."""

    def forward(self, input: Tensor) -> Tensor:
        if _usual(input):
            return super().forward(input)
        y: Tensor = _Normalise.apply(input, self.num_groups, self.eps)  # pyright: ignore[reportAssignmentType]
        if not self.affine:
            return y
        weight, bias = (p.view(-1, *[1] * (y.ndim - 2)) for p in (self.weight, self.bias))
        return torch.addcmul(bias, y, weight)


class _Shape(NamedTuple):
    """What describes a convolution beside its weights."""

    stride: list[int]
    padding: list[int]

    def backward(self, g: Tensor, x: Tensor, weight: Tensor, bias: bool, *wanted: bool) -> tuple[Tensor, ...]:
        """Compute the gradients in x, weight and bias that are `wanted`."""
        sizes = [len(weight)] if bias else None
        return _aten.convolution_backward(
            g, x, weight, sizes, self.stride, self.padding, [1, 1], False, [0, 0], 1, list(wanted)
        )


class _Weights(torch.autograd.Function):
    """The gradient in the weights, computed only if it is asked for: this node has an output of no numbers, and the
    convolution leaves g and x in `left`, without their graph, which would hold the node and so keep itself alive."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, shape: _Shape, left: list[Tensor]) -> Tensor:
        ctx.shape, ctx.left, ctx.bias = shape, left, bias is not None
        ctx.save_for_backward(weight)
        return torch.empty(0, dtype=weight.dtype, device=weight.device)

    @staticmethod
    def backward(ctx: Any, none: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient in the weights of ebm_lab's Conv2d can't be differentiated again; use torch.nn.Conv2d"
            )
        (weight,), (g, x) = ctx.saved_tensors, ctx.left
        ctx.left.clear()
        return *ctx.shape.backward(g, x, weight, ctx.bias, False, True, ctx.bias)[1:], None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, shape: _Shape) -> Tensor:
    left: list[Tensor] = []
    node = _Weights.apply(weight, bias, shape, left)
    return _Convolve.apply(x, node, weight, bias, shape, left)  # pyright: ignore[reportReturnType]


class _Convolve(torch.autograd.Function):
    """(x, W, b) -> W * x + b; `node` takes the gradients of W and b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, node: Tensor, weight: Tensor, bias: Tensor | None, shape: _Shape, left: list[Tensor]
    ) -> Tensor:
        ctx.shape, ctx.left = shape, left
        ctx.save_for_backward(x, weight)
        return nn.functional.conv2d(x, weight, bias, shape.stride, shape.padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        ctx.left[:] = [g.detach(), x.detach()]
        inner: list[Tensor] = []
        node = _Weights.apply(weight, None, ctx.shape, inner)
        to_x = _ConvolveBack.apply(g, node, weight, x.detach(), ctx.shape, inner)
        return to_x, torch.empty_like(node), None, None, None, None


class _ConvolveBack(torch.autograd.Function):
    """(g, W) -> W' * g, of the shape of x; `node` takes the gradient of W."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, node: Tensor, weight: Tensor, x: Tensor, shape: _Shape, left: list[Tensor]
    ) -> Tensor:
        ctx.shape, ctx.left = shape, left
        ctx.save_for_backward(g, weight)
        return shape.backward(g, x, weight, False, True, False, False)[0]

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, weight = ctx.saved_tensors
        ctx.left[:] = [g.detach(), c.detach()]
        none = torch.empty(0, dtype=c.dtype, device=c.device)
        return _convolve(c, weight, None, ctx.shape), none, None, None, None, None


class Conv2d(nn.Conv2d):
    """W * x + b, as in the header."""

    def forward(self, input: Tensor) -> Tensor:
        other = self.padding_mode != "zeros" or self.groups != 1 or self.dilation != (1, 1)
        if _usual(input) or other or isinstance(self.padding, str):
            return super().forward(input)
        padding = cast(tuple[int, ...], self.padding)
        return _convolve(input, self.weight, self.bias, _Shape(list(self.stride), list(padding)))
