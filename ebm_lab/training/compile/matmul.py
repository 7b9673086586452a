"""Rewrite the matrix products of a traced graph into the form that is fastest on this CPU.

A product in which a dimension is at most NARROW needs only a few multiplications per number: written as a sum of
products, it becomes a loop that is compiled together with the operations around it. The other products are oneDNN's
where MKL's are slow (ebm_lab/models/products.py). Both forms add the same float32 numbers in another order.
"""

import functools

import torch
from torch import Tensor, fx

from ebm_lab.models.products import mkl_is_slow

NARROW = 4
aten = torch.ops.aten


@functools.cache
def wide_product() -> torch._ops.OpOverload:
    """Register and return an operator that computes x @ y by oneDNN.

    It needs its own name, because the compiler treats torch's oneDNN operator as a layer whose weights never change.
    """
    name = "ebm_lab::product"
    torch.library.define(name, "(Tensor x, Tensor y) -> Tensor")
    linear = torch.ops.mkldnn._linear_pointwise.default
    torch.library.impl(name, "CPU", lambda x, y: linear(x, y.t(), None, "none", [], ""))
    torch.library.register_fake(name, lambda x, y: x.new_empty(x.shape[0], y.shape[1]))
    return torch.ops.ebm_lab.product.default


def _sum_of_products(graph: fx.Graph, x: fx.Node, y: fx.Node, transposed: bool) -> fx.Node:
    """Add sum_k x_ik y_kj to the graph.

    `transposed` computes it as the transpose of y' x', whose last index is contiguous in memory if x is a transpose.
    """
    if transposed:
        x, y = (graph.call_function(aten.t.default, (z,)) for z in (y, x))
    terms = [graph.call_function(aten.unsqueeze.default, (z, dim)) for z, dim in ((x, 2), (y, 0))]
    out = graph.call_function(aten.sum.dim_IntList, (graph.call_function(aten.mul.Tensor, tuple(terms)), [1]))
    return graph.call_function(aten.t.default, (out,)) if transposed else out


def rewrite(module: fx.GraphModule) -> None:
    """Rewrite the float32 matrix products on the CPU in `module` into their fastest form."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or len(node.kwargs):
            continue
        x, y = node.args[-2:]
        shapes: list[Tensor] = [x.meta["val"], y.meta["val"]]
        if shapes[0].device.type != "cpu" or shapes[0].dtype is not torch.float32:
            continue
        (rows, inner), columns = shapes[0].shape, shapes[1].shape[1]
        with graph.inserting_before(node):
            if min(rows, inner, columns) <= NARROW:
                new = _sum_of_products(graph, x, y, transposed=columns <= NARROW and shapes[0].stride(0) == 1)
            elif mkl_is_slow():
                if shapes[0].stride(0) == 1:
                    x = graph.call_function(aten.clone.default, (x,), {"memory_format": torch.contiguous_format})
                new = graph.call_function(wide_product(), (x, y))
            else:
                continue
            if node.target is aten.addmm.default:
                new = graph.call_function(aten.add.Tensor, (new, node.args[0]))
        new.meta["val"] = node.meta["val"]  # a product that takes this one reads it
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    module.recompile()
