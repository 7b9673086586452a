"""Wine quality: eleven physical and chemical measurements of 1,599 red or 4,898 white Portuguese wines.

A sixth of the rows are repetitions. They are dropped before splitting, so that no test row is a copy of a training row:
1,359 red and 3,961 white wines remain. The grade in the twelfth column is left out.
P. Cortez et al., Modeling wine preferences by data mining from physicochemical properties, Decision Support Systems
2009; UCI Machine Learning Repository, https://archive.ics.uci.edu/dataset/186/wine+quality.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register
from ebm_lab.core.transforms import standardising
from ebm_lab.datasets._splits import split_indices
from ebm_lab.datasets._tables import read_table

Fraction = Annotated[float, Field(gt=0, lt=1)]


@register("dataset", "wine")
class Wine(Dataset):
    """`root`: the folder that holds wine/red.csv and wine/white.csv; `val` and `test` are the fractions held out;
    `seed` shuffles. Each column has mean 0 and std 1 on the training split; `transform` keeps the inverse."""

    def __init__(
        self, *, root: Place, colour: Literal["red", "white"], val: Fraction, test: Fraction, seed: NonNegativeInt
    ) -> None:
        path = Path(root) / "wine" / f"{colour}.csv"
        raw = torch.from_numpy(distinct(_read(path, root)))
        parts = split_indices(len(raw), val, test, seed)
        self.transform = standardising(
            raw[parts["train"]], f"dataset.root={root}", lambda where: f"column(s) {[i + 1 for i in where]} of {path}"
        )
        self.digests = {s: digest([raw[i]]) for s, i in parts.items()}
        self.train, self.val, self.test = (
            self.transform.forward(raw[parts[s]]).float() for s in ("train", "val", "test")
        )


def distinct(rows: np.ndarray) -> np.ndarray:
    """Return the rows of (n, d) without repetitions, in the order of their first appearance."""
    first = np.unique(rows, axis=0, return_index=True)[1]
    return rows[np.sort(first)]


def _read(path: Path, root: str) -> np.ndarray:
    """Return the measurements, (n, 11)."""
    if not path.is_file():
        raise UserError(
            f"dataset.root={root}: no wine table there; put the UCI table winequality-{path.stem}.csv "
            f"(a line of names, then 12 numbers separated by ';') at {path}"
        )
    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"dataset.root={root}: {path} can't be read as numbers: {str(error).splitlines()[0]}") from None
    rows, lines = table.rows, table.lines
    bad = ~np.isfinite(rows).all(1)
    if rows.shape[1] != 12 or bad.any():
        row = int(bad.argmax())
        found = f"row {row + 1} (line {lines[row]}) holds inf" if bad.any() else f"has {rows.shape[1]} columns"
        raise UserError(f"dataset.root={root}: {path} must hold 12 numbers a row separated by ';', and {found}")
    return rows[:, :11]
