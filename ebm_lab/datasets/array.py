"""Your own rows: a table or array on disk, as points.

`.npy`: an (n, ...) array; `.npz`: an archive with one array, or the one named `key`; `.csv`: numbers with one row per
sample and an optional line of names. Everything after the first axis is the event shape.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.core.splits import split_indices
from ebm_lab.core.transforms import identity, standardising

Fraction = Annotated[float, Field(gt=0, lt=1)]


@register("dataset", "array")
class Array(Dataset):
    """`scaling`: `standardize` (each coordinate to mean 0 and std 1 on the training split) or `none`; the inverse and
    its log-determinant are kept in `transform`. `val` and `test` are the fractions held out; `seed` shuffles."""

    def __init__(
        self,
        *,
        path: str,
        key: str | None,
        scaling: Literal["standardize", "none"],
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        raw = torch.as_tensor(_read(Path(path), key), dtype=torch.float64)
        _refuse_bad(raw, path)
        parts = split_indices(len(raw), val, test, seed)
        if scaling == "standardize":
            self.transform = standardising(
                raw[parts["train"]], f"dataset.path={path}", lambda where: f"coordinate(s) {where}"
            )
        else:
            self.transform = identity(torch.float64)
            if bool((raw.abs() > torch.finfo(torch.float32).max).any()):
                raise UserError(
                    f"dataset.scaling=none: {path} holds numbers beyond 3.4e38, which float32 can't hold; "
                    f"choose dataset.scaling=standardize"
                )
        self.train, self.val, self.test = (
            self.transform.forward(raw[parts[s]]).float() for s in ("train", "val", "test")
        )


def _read(path: Path, key: str | None) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"dataset.path={path}: no such file; give an .npy, .npz or .csv file")
    readers = {
        ".npy": lambda: np.load(path, allow_pickle=False),
        ".npz": lambda: _npz(path, key),
        ".csv": lambda: _csv(path),
    }
    if path.suffix not in readers:
        raise UserError(f"dataset.path={path}: can't read '{path.suffix}' files; allowed: .npy, .npz, .csv")
    try:
        array = np.asarray(readers[path.suffix]())
        return array.reshape(-1, 1).astype(np.float64) if array.ndim == 1 else array.astype(np.float64)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"dataset.path={path}: can't be read as numbers: {str(error).splitlines()[0]}") from None


def _npz(path: Path, key: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if key is None and len(archive.files) != 1:
            raise UserError(
                f"dataset.key=null: {path} holds {len(archive.files)} arrays; name one: {', '.join(archive.files)}"
            )
        if key is not None and key not in archive.files:
            raise one_of("dataset.key", key, archive.files)
        return archive[key or archive.files[0]]


def _csv(path: Path) -> np.ndarray:
    """Numbers separated by commas, semicolons, tabs or blanks; a first line that is not numeric is a header."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    delimiter = next((d for d in ",;\t" if lines and d in lines[0]), None)
    try:
        np.asarray([float(v) for v in lines[0].split(delimiter)] if lines else [])
        skip = 0
    except ValueError:
        skip = 1
    return np.loadtxt(lines[skip:], delimiter=delimiter, ndmin=2)


def _refuse_bad(raw: Tensor, path: str) -> None:
    if raw.ndim < 2 or raw.numel() == 0:
        raise UserError(f"dataset.path={path}: holds no rows")
    bad = (~raw.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(
            f"dataset.path={path}: {int(bad.sum())} row(s) hold nan or inf, the first is row {row}; clean them first"
        )
