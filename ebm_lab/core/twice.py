"""Say to the layers of an energy that its gradient in x will be differentiated once more, as in losses of the score.

Layers may then take derivatives of their own (models/curved.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_TWICE: ContextVar[bool | None] = ContextVar("twice", default=False)


def differentiated_twice() -> bool:
    """Return whether the energy that is being computed will be differentiated twice."""
    return _TWICE.get() is True


def mixed_precision() -> bool:
    """Return whether operations are cast to a lower precision here; no formula for a derivative may then be used."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


@contextmanager
def twice(yes: bool | None) -> Iterator[None]:
    """Set what `differentiated_twice` returns in this context; None: False, also in contexts within that say yes."""
    token = _TWICE.set(yes if _TWICE.get() is not None else None)
    try:
        yield
    finally:
        _TWICE.reset(token)
