"""A traced step as a CUDA graph: its kernels are recorded once, and from then on launched together.

A chain of 60 Langevin steps of a small network is thousands of kernels, each of which takes the host longer to launch
than the device to run. A graph is launched as one.

A graph holds the addresses of its inputs. Tensors that persist between steps (parameters, buffers, the optimiser's
state, averages) are used where they lie; the others are copied into tensors of the graph's own. Its outputs are copied,
because the next launch overwrites them. If a persistent tensor lies elsewhere than before, as after the load of a
checkpoint, the step is recorded again.

CUDA semantics, section CUDA Graphs, in torch's documentation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]
WARM = 3
"""Runs before the recording, in which libraries choose their kernels and take their memory."""


def record(
    function: Callable[[], Sequence[Tensor]], warm: Callable[[], object]
) -> tuple[Callable[[], None], list[Tensor]]:
    """Record the kernels of `function` without running them; return what launches them, and where their outputs lie.

    warm: runs the same kernels on tensors that do not matter.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            warm()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = list(function())
    return graph.replay, out


class Captured:
    """A function of tensors, of which the first `persistent` are changed in place, as a CUDA graph."""

    def __init__(self, function: Function, inputs: Sequence[Tensor], persistent: int) -> None:
        self.function, self.persistent = function, persistent
        self._record(inputs)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the function on `inputs`, whose shapes and dtypes are those of the first ones."""
        if [t.data_ptr() for t in inputs[: self.persistent]] != self.places:
            self._record(inputs)
        for own, given in zip(self.own, inputs[self.persistent :], strict=True):
            own.copy_(given)
        self.launch()
        return [t.clone() for t in self.out]

    @torch.no_grad()
    def _record(self, inputs: Sequence[Tensor]) -> None:
        kept = list(inputs[: self.persistent])
        self.own = [t.clone() for t in inputs[self.persistent :]]
        self.places = [t.data_ptr() for t in kept]
        self.launch, self.out = record(
            lambda: self.function(*kept, *self.own), lambda: self.function(*(t.clone() for t in inputs))
        )
