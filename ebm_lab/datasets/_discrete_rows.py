"""Rows of whole numbers as bits or categories: when they are taken as such, and how they are written.

bits:        x = raw, all values 0 or 1
categories:  x one-hot along a new first axis, (n, *shape) -> (n, K, *shape),    K = 1 + the largest value of all
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.dataset import Space
from ebm_lab.core.errors import UserError

NOTED = 16
"""The most different values of whole numbers that a note says may be categories."""
SHOWN = 6
"""Categories that a note names."""
MOST = 256
"""The most categories."""


class Found(NamedTuple):
    """What rows are: their space, and lines for the user."""

    space: Space
    notes: list[str]


def space_of(
    raw: Tensor, asked: Literal["auto"] | Space, dequantise: bool, path: str, place: Callable[[int, int], str]
) -> Found:
    """Return the space of rows (n, *shape) as asked for, or as their values tell. place: names a row and a coordinate.
    Raises UserError where the values or `dequantise` do not suit the space asked for."""
    if asked == "continuous" or (asked == "auto" and dequantise):
        return Found("continuous", [])
    if asked == "auto":
        return _recognised(raw)
    if dequantise:
        raise UserError(
            f"dataset.dequantise=true: makes real numbers of whole ones, and dataset.space={asked} keeps them; "
            f"allowed: false, or dataset.space=continuous"
        )
    most = 1 if asked == "binary" else MOST - 1
    wrong = ((raw != raw.round()) | (raw < 0) | (raw > most)).flatten(1)
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        allowed = "0 and 1" if asked == "binary" else f"whole numbers from 0 to at most {most}"
        raise UserError(
            f"dataset.space={asked}: {path} holds {float(raw.flatten(1)[row, column]):g} in {place(row, column)}; "
            f"allowed: {allowed}"
        )
    if asked == "binary":
        return Found("binary", [])
    there = raw.unique().long().tolist()
    if there[-1] == 0:
        raise UserError(f"dataset.space=categorical: {path} holds nothing but 0; a site needs two categories")
    absent = sorted(set(range(there[-1])) - set(there))
    if not absent:
        return Found("categorical", [])
    shown = ", ".join(map(str, absent[:SHOWN])) + (f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else "")
    told = f"dataset.space=categorical: {there[-1] + 1} categories, 0 to {there[-1]}, and no row holds {shown}"
    return Found("categorical", [told])


def _recognised(raw: Tensor) -> Found:
    values = raw.unique()
    k = len(values)
    if k > NOTED or not torch.equal(values, torch.arange(k, dtype=raw.dtype)):
        return Found("continuous", [])
    if k == 2:
        told = "all values are 0 or 1, so they are bits; dataset.space=continuous takes them as real numbers"
        return Found("binary", [told])
    told = f"all values are whole numbers from 0 to {k - 1}, taken as real numbers; dataset.space=categorical takes "
    return Found("continuous", [told + "them as categories"] if k > 2 else [])


def encoded(raw: Tensor, space: Space, categories: int) -> Tensor:
    """Return rows (n, *shape) in model space, in float32."""
    if space == "binary":
        return raw.float()
    return torch.nn.functional.one_hot(raw.long(), categories).movedim(-1, 1).float()
