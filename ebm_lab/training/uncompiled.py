"""Torch's optimisers without the marks that tell its compiler to leave them alone.

Each mark imports the compiler's front end when the method is first called, which takes a second and more of every run's
start. The lab's compiled steps do not trace these methods, so that they need no marks.
"""

import functools
import inspect
from typing import Any

import torch

MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@functools.cache
def uncompiled(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """Return a subclass of `kind` that does the same, but whose methods never import torch's compiler."""
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in MARKED}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(inspect.unwrap(kind.step))})
