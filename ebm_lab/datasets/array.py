"""Your own rows: a table or array on disk, as points.

`.npy`: an (n, ...) array of real numbers, integers or booleans; `.npz`: an archive with one array, or the one named
`key`; `.csv`: UTF-8 text of numbers, one row per line, with an optional first line of names (`_tables.py` has the
rules). All axes after the first form the event shape. Other files are refused, and `notes` lists decisions about a
file.

A column may hold class labels, whole numbers may be spread over their cells (`_grids.py`), and rows of some classes may
be left out as anomalies. With labels, each class has the same share of every split. Rows of zeros and ones alone are
bits, and other whole numbers may be categories (`_discrete_rows.py`).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

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
from ebm_lab.datasets._discrete_rows import encoded, space_of
from ebm_lab.datasets._grids import grid_note, spread, steps_of
from ebm_lab.datasets._labels import chosen, numbered
from ebm_lab.datasets._splits import split_kept
from ebm_lab.datasets._tables import read_table

Fraction = Annotated[float, Field(gt=0, lt=1)]
SUFFIXES = (".npy", ".npz", ".csv")


@register("dataset", "array")
class Array(Dataset):
    """`label`: the column of class labels, null for none; `classes`: the classes to keep, null for all, those left out
    become `outside`; `space`: continuous, binary (bits) or categorical (one-hot, (K, *shape)), auto: bits if all values
    are 0 or 1, else continuous; `dequantise`: spread whole numbers over their cells, which leaves them continuous;
    `scaling`: `standardize` (each coordinate to mean 0 and std 1 on the training split) or `none`, of continuous rows
    alone, for bits and categories are taken as they are; the inverse and its log-determinant are in `transform`. `val`
    and `test` are the fractions held out; `seed` shuffles."""

    def __init__(
        self,
        *,
        path: Place,
        key: str | None,
        label: str | int | None,
        classes: Annotated[list[str | int], Field(min_length=1)] | None,
        space: Literal["auto", "continuous", "binary", "categorical"],
        dequantise: bool,
        scaling: Literal["standardize", "none"],
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        if classes is not None and label is None:
            raise UserError(f"dataset.classes={classes}: needs dataset.label, the column of class labels")
        rows, lines, self.notes, self.column_names, texts = _read(Path(path), key, label)
        raw = torch.as_tensor(rows, dtype=torch.float64)
        _refuse_bad(raw, lines, self.column_names, path)
        labels, keep = None, None
        if texts is not None:
            labels, self.class_names, told = numbered(texts, f"dataset.label={label}", first=0 if lines is None else 1)
            keep, self.notes = chosen(classes, self.class_names), [*self.notes, told]
        found = space_of(
            raw, space, dequantise, path, lambda row, at: f"{_row(row, lines)} in {_called([at], self.column_names)}"
        )
        self.space, self.notes = found.space, [*self.notes, *found.notes]
        if self.space == "continuous":
            steps = steps_of(raw)
            self.notes = [*self.notes, *grid_note(raw, steps, self.column_names, dequantise)]
            raw = spread(raw, steps, seed) if dequantise else raw
        parts, left_out = split_kept(len(raw), labels, keep, val, test, seed)
        self.digests = {s: digest([raw[i]]) for s, i in parts.items()}
        self.labels = None if labels is None else {s: labels[i] for s, i in parts.items()}
        seen = self._continuous(raw, parts, scaling, path) if self.space == "continuous" else self._discrete(raw)
        self.train, self.val, self.test = (seen(raw[parts[s]]) for s in ("train", "val", "test"))
        self.outside = seen(raw[left_out]) if len(left_out) else None

    def _continuous(self, raw: Tensor, parts: dict[str, Tensor], scaling: str, path: str) -> Callable[[Tensor], Tensor]:
        """Choose the transform, and return the map of rows to model space."""
        if scaling == "standardize":
            self.transform = standardising(
                raw[parts["train"]], f"dataset.path={path}", lambda where: _called(where, self.column_names)
            )
        else:
            self.transform = identity(torch.float64)
            self.precise = raw[parts["train"]], raw[parts["val"]], raw[parts["test"]]
            if bool((raw.abs() > torch.finfo(torch.float32).max).any()):
                raise UserError(
                    f"dataset.scaling=none: {path} holds numbers beyond 3.4e38, which float32 can't hold; "
                    f"choose dataset.scaling=standardize"
                )
        return lambda rows: self.transform.forward(rows).float()

    def _discrete(self, raw: Tensor) -> Callable[[Tensor], Tensor]:
        """Say how the rows are drawn, and return their map to model space."""
        if self.space == "binary" and raw.ndim == 4 and raw.shape[1] in (1, 3):
            self.bounds = (0.0, 1.0)
        categories = 1 + int(raw.max())
        return lambda rows: encoded(rows, self.space, categories)


class Rows(NamedTuple):
    """rows: in float64; lines: the line number of each in a text file; notes: for the user; names: of the columns;
    labels: of the rows, if they were asked for."""

    rows: np.ndarray
    lines: list[int] | None
    notes: list[str]
    names: list[str] | None
    labels: list[str] | None


def _read(path: Path, key: str | None, label: str | int | None) -> Rows:
    if not path.is_file():
        raise UserError(f"dataset.path={path}: no such file; give an .npy, .npz or .csv file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"dataset.path={path}: can't read '{path.suffix}' files; allowed: {', '.join(SUFFIXES)}")
    try:
        if suffix == ".csv":
            return Rows(*read_table(path, label))
        array, labels, notes = read_array(path, key, label)
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        words = label is None and re.search("holds '[a-zA-Z].*is not a number", reason)
        tip = "; if a column holds class labels, name it by dataset.label" if words else ""
        raise UserError(f"dataset.path={path}: can't be read as numbers: {reason}{tip}") from None
    return Rows(array.reshape(-1, 1) if array.ndim == 1 else array, None, notes, None, labels)


def _called(where: list[int], names: list[str] | None) -> str:
    return f"coordinate(s) {[names[i] or i for i in where] if names else where}"


def _row(row: int, lines: list[int] | None) -> str:
    return f"row {row}" if lines is None else f"row {row + 1} (line {lines[row]})"


def _refuse_bad(raw: Tensor, lines: list[int] | None, names: list[str] | None, path: str) -> None:
    if raw.ndim < 2:
        raise UserError(f"dataset.path={path}: holds one number and no rows; give an array of shape (n, ...)")
    if raw.numel() == 0:
        raise UserError(f"dataset.path={path}: holds no rows of numbers: its shape is {tuple(raw.shape)}")
    bad = (~raw.isfinite()).flatten(1)
    if bool(bad.any()):
        row, place = bad.nonzero()[0].tolist()
        raise UserError(
            f"dataset.path={path}: {int(bad.any(1).sum())} row(s) hold nan or inf, the first is {_row(row, lines)} in "
            f"{_called([place], names)}; {int(bad.sum())} value(s) in all; clean them first"
        )
