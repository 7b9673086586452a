"""Generators of random numbers of the pretended device: they draw the CPU's numbers and say that they are CUDA's."""

import torch
from torch import Tensor

CUDA = torch.device("cuda", 0)
OWNED: set[int] = set()
"""Addresses of the generators that say they are CUDA's; an operator is handed another Python object of the same."""
STATES: list[Tensor] = []


class FakeGenerator(torch.Generator):
    """A CPU generator that says it is CUDA's. Its state has sixteen bytes: the place in STATES where it is kept."""

    def __init__(self, device=None):
        OWNED.add(self._cdata)

    def __del__(self):
        OWNED.discard(self._cdata)

    @property
    def device(self):
        return CUDA

    def get_state(self):
        STATES.append(super().get_state())
        return torch.tensor([len(STATES) - 1, 0]).view(torch.uint8)

    def set_state(self, state):
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        return super().set_state(STATES[int(state.view(torch.int64)[0])])


class _MakeGenerator(type):
    def __instancecheck__(cls, x):
        return isinstance(x, REAL)


REAL = torch.Generator


class Generator(metaclass=_MakeGenerator):
    """torch.Generator, with a fake one for cuda."""

    def __new__(cls, device="cpu"):
        return FakeGenerator() if torch.device(device).type == "cuda" else REAL(device)
