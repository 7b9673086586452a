"""From how many steps on compiling pays: by what a step does, counted and not timed.

A compiler spares the dispatch of small operations, and the passes over memory between products and convolutions. Both
can be counted in one step that leaves no trace. A clock would know the machine better, and give other bits another day.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ebm_lab.core.interfaces import Batch, Objective
from ebm_lab.training.compile.graphs import untouched
from ebm_lab.training.compile.random_inputs import noted

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
"""What the compiler leaves to the same libraries."""

SAVED = {"step": 1.2, "call": 0.002, "megabyte": 0.08}
"""Milliseconds of CPU time."""
COST = {"graph": 20.0, "call": 0.02}
"""CPU-seconds of compiling, with nothing cached yet."""
MARGIN = 2
"""SAVED and COST foresee the steps after which compiling is paid for to within about this factor, for points as for
images: `python scripts/benchmark.py only=compile`, docs/performance.md."""
LEAST = 200
"""Fewer steps are not worth a look: nothing that was measured pays for itself so soon."""


class Work(NamedTuple):
    """One step's operations, without views, and the megabytes that those which are no products write to the CPU's
    memory."""

    calls: int
    megabytes: float


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.calls += 1
            if func._schema.name.removeprefix("aten::") not in PRODUCTS:
                written = out if isinstance(out, tuple | list) else [out]
                self.bytes += sum(t.numel() * t.element_size() for t in written if isinstance(t, Tensor) and t.is_cpu)
        return out


def work(objective: Objective, batch: Batch) -> Work:
    """Of the objective and its gradient, which must have none yet; objective, sampler and generators stay as they are.
    Raises Untraceable."""
    try:
        with untouched(objective), noted(), _Counting() as mode:
            objective(batch).value.backward()
    finally:
        objective.zero_grad()
    return Work(mode.calls, mode.bytes / 1e6)


def pays_from(step: Work) -> float:
    """From how many steps on compiling a step of so much work surely saves more than it costs."""
    saved = SAVED["step"] + SAVED["call"] * step.calls + SAVED["megabyte"] * step.megabytes
    return MARGIN * (COST["graph"] + COST["call"] * step.calls) / (saved / 1000)


def settle(wish: str | bool, steps: int, objective: Objective, batch: Callable[[], Batch]) -> bool:
    """Is a run of so many steps compiled? `wish`: auto, on or off (true and false, as YAML reads the last two)."""
    if wish != "auto":
        return wish in ("on", True)
    if steps < LEAST:
        return False
    try:
        return steps >= pays_from(work(objective, batch()))
    except Exception:  # no fixed graph, or a step that can't be done: the eager one says what there is to say
        return False
