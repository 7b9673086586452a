"""Matrix products of linear layers, without a graph, by the faster of torch's two libraries for them.

On CPUs not made by Intel, MKL does not use the widest instructions (AVX-512) and runs at half speed; oneDNN, which
torch also contains, uses them. Elsewhere MKL is the faster one. Both add the same float32 numbers, in another order.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode


@functools.cache
def mkl_is_slow() -> bool:
    """Return whether this CPU has AVX-512 instructions that MKL does not use."""
    file = Path("/proc/cpuinfo")
    if not (torch.backends.mkldnn.is_available() and file.is_file()):
        return False
    return "avx512" in (text := file.read_text(encoding="utf-8")) and "GenuineIntel" not in text


def _onednn(x: Tensor, y: Tensor) -> bool:
    """Return whether to call oneDNN: not while a step is traced, since the compiler chooses its own products."""
    if not mkl_is_slow() or x.device.type != "cpu" or not x.dtype == y.dtype == torch.float32:
        return False
    return _get_current_dispatch_mode() is None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x W' + b, (N, i) -> (N, o), without a graph."""
    if _onednn(x, weight):
        if len(x) >= 64 and min(weight.shape) >= 16:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        if bias is None and len(weight) < 16:  # few outputs: half the time of slow MKL, and the same bits
            return (weight @ x.T).T.contiguous()
    return nn.functional.linear(x, weight, bias)


def outer(y: Tensor, x: Tensor) -> Tensor:
    """Compute sum_n y_n x_n', (o, i) for y (N, o) and x (N, i), without a graph."""
    if x.shape[1] < 16:
        return (x.T @ y).T.contiguous()
    if min(*y.shape, x.shape[1]) >= 64 and _onednn(y, x):
        return torch.ops.mkldnn._linear_pointwise(y.T, x.T, None, "none", [], "")
    return y.T @ x


class Linear(torch.autograd.Function):
    """x W' + b, as `linear` computes it, differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        return linear(g, weight.T), outer(g, x), g.sum(0) if ctx.needs_input_grad[2] else None
