"""Split a finite data set into training, validation and test parts, and keep only some of its classes."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream

Classes = Annotated[list[NonNegativeInt], Field(min_length=1)] | None
"""The labels to keep, or None for all."""


def split_indices(n: int, val: float, test: float, seed: int) -> dict[str, Tensor]:
    """Return shuffled disjoint indices; `val` and `test` are fractions of n."""
    n_val, n_test = round(n * val), round(n * test)
    if min(n_val, n_test, n - n_val - n_test) < 1:
        raise UserError(
            f"{n} rows with val={val} and test={test} leave a split empty: each of train, val and test needs one row"
        )
    order = torch.randperm(n, generator=stream(seed, "split"))
    return {"val": order[:n_val], "test": order[n_val : n_val + n_test], "train": order[n_val + n_test :]}


def keep_classes(
    splits: dict[str, Tensor], labels: dict[str, Tensor], classes: list[int] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """Return splits and labels with only the rows of these classes, and the test rows of all others, or None if there
    are none.

    A row's split does not depend on `classes`; labels keep their numbers.
    """
    if classes is None:
        return splits, labels, None
    known = sorted(set(torch.cat(list(labels.values())).tolist()))
    if wrong := [c for c in classes if c not in known]:
        raise UserError(f"dataset.classes={classes}: no image has the label {wrong[0]}; allowed: {known}")
    kept = {s: torch.isin(y, torch.tensor(classes)) for s, y in labels.items()}
    if empty := [s for s, k in kept.items() if not k.any()]:
        raise UserError(f"dataset.classes={classes}: leaves the split '{empty[0]}' empty")
    outside = splits["test"][~kept["test"]]
    splits, labels = ({s: t[kept[s]] for s, t in whole.items()} for whole in (splits, labels))
    return splits, labels, outside if len(outside) else None
