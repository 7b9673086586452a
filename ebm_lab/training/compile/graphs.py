"""Check whether a step can be one graph, and compile the graph.

A graph performs the same operations for all values, and its only state is what it receives and returns. A step that
needs more is detected here: from what changes when the step is run once, or from the operations in its graph.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx

from ebm_lab.core.interfaces import Objective
from ebm_lab.training.compile.random_inputs import Untraceable
from ebm_lab.training.nested import objectives


@contextmanager
def untouched(objective: Objective) -> Iterator[None]:
    """Restore the objective, its modules and its samplers after this context.

    Raises Untraceable if the objective keeps state from step to step other than in tensors that it changes in place,
    because a graph would not keep it.
    """
    samplers = [o.sampler for o in objectives(objective).values() if o.sampler is not None]
    owners: list[Any] = [*objective.modules(), *samplers]
    attributes: list[dict[str, Any]] = [*(vars(o) for o in owners), *(m._buffers for m in objective.modules())]
    before = [dict(a) for a in attributes]
    tensors = [(t, t.clone()) for a in before for t in a.values() if isinstance(t, Tensor)]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
        for i, (old, new) in enumerate(zip(before, attributes, strict=True)):
            for key, value in new.items():
                plain = isinstance(value, bool | int | float | str) and old.get(key) != value
                if plain or (i >= len(owners) and old.get(key) is not value):
                    raise Untraceable(f"it sets '{key}' anew at each step")
    finally:
        for old, new in zip(before, attributes, strict=True):
            new.clear()
            new.update(old)
        with torch.no_grad():
            for t, value in tensors:
                t.copy_(value)


def refuse(module: fx.GraphModule) -> None:
    """Raise Untraceable if a graph draws its own random numbers, or writes to a tensor that it treats as a constant."""
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise Untraceable(f"{node.target} draws from torch's global generator")
        root = node.args[0] if node.target._schema.is_mutable and node.args else None
        while isinstance(root, fx.Node) and root.op == "call_function" and root.args:
            root = root.args[0] if root.target.is_view or root.target._schema.is_mutable else None  # type: ignore
        if isinstance(root, fx.Node) and root.op == "get_attr":
            raise Untraceable("it writes to a tensor that is no buffer")


def reason(problem: Exception) -> str:
    """Return in one line why a step could not be compiled."""
    text = str(problem).strip() or type(problem).__name__
    if "tracing tensor" in text:
        return "its operations depend on computed values"
    return text.splitlines()[0][:160]


def compiled(module: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile `module` to machine code, or take it from torch's cache if an earlier run left it there."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that it finds no CUDA
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        from torch._inductor.compile_fx import compile_fx  # takes 2 s
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        shapes = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())  # torch's cache needs a shape_env
        fakes = [shapes.from_tensor(t, static_shapes=True) for t in inputs]
        return cast(Callable[..., Sequence[Tensor]], compile_fx(module, fakes))
