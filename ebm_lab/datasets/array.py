"""Your own rows: a table or array on disk, as points.

`.npy`: an (n, ...) array of real numbers, integers or booleans; `.npz`: an archive with one array, or the one named
`key`; `.csv`: UTF-8 text of numbers, one row per line, with an optional first line of names (`_tables.py` has the
rules). All axes after the first form the event shape. Other files are refused, and `notes` lists decisions about a
file.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register
from ebm_lab.core.transforms import identity, standardising
from ebm_lab.datasets._archives import BROKEN, read_array
from ebm_lab.datasets._splits import split_indices
from ebm_lab.datasets._tables import read_table

Fraction = Annotated[float, Field(gt=0, lt=1)]
SUFFIXES = (".npy", ".npz", ".csv")


@register("dataset", "array")
class Array(Dataset):
    """`scaling`: `standardize` (each coordinate to mean 0 and std 1 on the training split) or `none`; the inverse and
    its log-determinant are in `transform`. `val` and `test` are the fractions held out; `seed` shuffles."""

    def __init__(
        self,
        *,
        path: Place,
        key: str | None,
        scaling: Literal["standardize", "none"],
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        rows, lines, self.notes = _read(Path(path), key)
        raw = torch.as_tensor(rows, dtype=torch.float64)
        _refuse_bad(raw, lines, path)
        parts = split_indices(len(raw), val, test, seed)
        if scaling == "standardize":
            self.transform = standardising(
                raw[parts["train"]], f"dataset.path={path}", lambda where: f"coordinate(s) {where}"
            )
        else:
            self.transform = identity(torch.float64)
            self.precise = raw[parts["train"]], raw[parts["val"]], raw[parts["test"]]
            if bool((raw.abs() > torch.finfo(torch.float32).max).any()):
                raise UserError(
                    f"dataset.scaling=none: {path} holds numbers beyond 3.4e38, which float32 can't hold; "
                    f"choose dataset.scaling=standardize"
                )
        self.digests = {s: digest([raw[i]]) for s, i in parts.items()}
        self.train, self.val, self.test = (
            self.transform.forward(raw[parts[s]]).float() for s in ("train", "val", "test")
        )


def _read(path: Path, key: str | None) -> tuple[np.ndarray, list[int] | None, list[str]]:
    """Return the rows in float64, the line number of each in a text file, and notes for the user."""
    if not path.is_file():
        raise UserError(f"dataset.path={path}: no such file; give an .npy, .npz or .csv file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"dataset.path={path}: can't read '{path.suffix}' files; allowed: {', '.join(SUFFIXES)}")
    try:
        if suffix == ".csv":
            return read_table(path)
        array, notes = read_array(path, key)
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"dataset.path={path}: can't be read as numbers: {reason}") from None
    return array.reshape(-1, 1) if array.ndim == 1 else array, None, notes


def _refuse_bad(raw: Tensor, lines: list[int] | None, path: str) -> None:
    if raw.ndim < 2:
        raise UserError(f"dataset.path={path}: holds one number and no rows; give an array of shape (n, ...)")
    if raw.numel() == 0:
        raise UserError(f"dataset.path={path}: holds no rows of numbers: its shape is {tuple(raw.shape)}")
    bad = (~raw.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        first = f"row {row}" if lines is None else f"row {row + 1} (line {lines[row]})"
        raise UserError(
            f"dataset.path={path}: {int(bad.sum())} row(s) hold nan or inf, the first is {first}; clean them first"
        )
