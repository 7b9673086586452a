"""Split a finite data set into training, validation and test parts."""

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream


def split_indices(n: int, val: float, test: float, seed: int) -> dict[str, Tensor]:
    """Shuffled disjoint indices; `val` and `test` are fractions of n."""
    n_val, n_test = round(n * val), round(n * test)
    if min(n_val, n_test, n - n_val - n_test) < 1:
        raise UserError(
            f"{n} rows with val={val} and test={test} leave a split empty: each of train, val and test needs one row"
        )
    order = torch.randperm(n, generator=stream(seed, "split"))
    return {"val": order[:n_val], "test": order[n_val : n_val + n_test], "train": order[n_val + n_test :]}
