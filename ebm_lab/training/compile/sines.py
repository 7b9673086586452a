"""Compute the sines and cosines of a traced graph by torch's own kernels, so that equal inputs give equal bits.

Torch's compiler joins a concatenation with the functions whose results it takes, and computes them for whole vectors of
numbers, of which it masks those that belong to another part. The masked numbers are whatever was in memory. A sine
reduces its arguments in one of two ways, for the whole vector according to the largest of them: so the last bits of the
numbers that count depend on those that do not. Torch's own kernels fill the rest of a vector with zeros.
"""

import functools

import torch
from torch import fx

aten = torch.ops.aten
BY_LARGEST = {aten.sin.default: torch.sin, aten.cos.default: torch.cos, aten.tan.default: torch.tan}
"""The functions whose rounding depends on the other numbers of their vector."""


@functools.cache
def own_kernel(function: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """Register and return an operator that the compiler calls as it is, instead of generating code for `function`."""
    name = f"ebm_lab::{function.overloadpacket.__name__}"
    torch.library.define(name, "(Tensor x) -> Tensor")
    torch.library.impl(name, "CPU", BY_LARGEST[function])
    torch.library.register_fake(name, torch.empty_like)
    return getattr(torch.ops.ebm_lab, function.overloadpacket.__name__).default


def rewrite(module: fx.GraphModule) -> None:
    """Replace the sines, cosines and tangents on the CPU in `module` by operators that call torch's own kernels."""
    for node in module.graph.nodes:
        if node.target in BY_LARGEST and node.meta["val"].device.type == "cpu":
            node.target = own_kernel(node.target)
    module.recompile()
