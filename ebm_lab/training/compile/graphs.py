"""Whether a step can be one graph, and the graph as machine code.

A graph does the same whatever the values are, and keeps nothing but what it is given and gives back. Whoever asks more
is found out here: by what changes where a step is run once, or by what its graph holds.
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
    """After it, all is as before in the objective, its modules and its sampler. Refuses one that keeps anything from
    step to step but in tensors that it changes in place: a graph would not."""
    samplers = [o.sampler for o in objectives(objective).values() if o.sampler is not None]
    owners: list[Any] = [*objective.modules(), *samplers]
    facts: list[dict[str, Any]] = [*(vars(o) for o in owners), *(m._buffers for m in objective.modules())]
    before = [dict(f) for f in facts]
    held = [(t, t.clone()) for f in before for t in f.values() if isinstance(t, Tensor)]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
        for i, (old, new) in enumerate(zip(before, facts, strict=True)):
            for key, value in new.items():
                plain = isinstance(value, bool | int | float | str) and old.get(key) != value
                if plain or (i >= len(owners) and old.get(key) is not value):
                    raise Untraceable(f"it sets '{key}' anew at each step")
    finally:
        for old, new in zip(before, facts, strict=True):
            new.clear()
            new.update(old)
        with torch.no_grad():
            for t, value in held:
                t.copy_(value)


def refuse(module: fx.GraphModule) -> None:
    """Refuse a graph that draws random numbers of its own, or that writes to what it takes for a constant."""
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
    """What kept a step from being compiled, in a line."""
    text = str(problem).strip() or type(problem).__name__
    if "tracing tensor" in text:
        return "what it does hangs on a number that only running it tells"
    return text.splitlines()[0][:160]


def compiled(module: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """`module` as machine code, from torch's own cache where a run before has left it there."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it says that it finds no CUDA
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        from torch._inductor.compile_fx import compile_fx  # 2 s
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        shapes = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())  # the cache asks for a shape_env
        fakes = [shapes.from_tensor(t, static_shapes=True) for t in inputs]
        return cast(Callable[..., Sequence[Tensor]], compile_fx(module, fakes))
