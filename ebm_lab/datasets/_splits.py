"""Split a finite data set into training, validation and test parts, and keep only some of its classes."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream

Classes = Annotated[list[NonNegativeInt], Field(min_length=1)] | None
"""The labels to keep, or None for all."""


def split_indices(n: int, val: float, test: float, seed: int, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Return shuffled disjoint indices; `val` and `test` are fractions of n. labels: (n,), each of which then has the
    same share of every split, up to a row or two; a single row of its kind is in `train`."""
    n_val, n_test = round(n * val), round(n * test)
    if min(n_val, n_test, n - n_val - n_test) < 1:
        raise UserError(
            f"{n} rows with val={val} and test={test} leave a split empty: each of train, val and test needs one row"
        )
    order = torch.randperm(n, generator=stream(seed, "split"))
    if labels is not None:
        one_hot = torch.nn.functional.one_hot(labels[order]).double()
        place = ((one_hot.cumsum(0) - 0.5) / one_hot.sum(0).clamp_min(1))[one_hot.bool()]  # within its class, in (0, 1)
        order = order[place.argsort(stable=True)]
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


def split_kept(
    n: int, labels: Tensor | None, classes: list[int] | None, val: float, test: float, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the indices of each split among the rows of these classes, None for all, and those of all other rows.

    Unlike the test images that `keep_classes` returns, these are all rows of the classes left out, for tables are
    small and none of them is trained on. labels: (n,), whose classes have the same share of every split.
    """
    if labels is None:
        return split_indices(n, val, test, seed), torch.arange(0)
    kept = torch.ones(n, dtype=torch.bool) if classes is None else torch.isin(labels, torch.tensor(classes))
    rows = kept.nonzero()[:, 0]
    parts = split_indices(len(rows), val, test, seed, labels[rows])
    return {s: rows[i] for s, i in parts.items()}, (~kept).nonzero()[:, 0]
