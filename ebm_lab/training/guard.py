"""The divergence guard: says when a run's numbers no longer mean anything, and never mends them in silence."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def complaint(metrics: dict[str, float]) -> str | None:
    """What is wrong with a window's mean metrics, in words; None if nothing is."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    return f"{', '.join(bad[:3])}: not a finite number" if bad else None


def unfit(parameters: Iterable[Tensor]) -> str | None:
    """What is wrong with the parameters; None if all are finite."""
    finite = torch.stack([p.detach().isfinite().all() for p in parameters])
    return None if bool(finite.all()) else "a parameter is nan or inf"
