"""Labelled tables that come inside scikit-learn: rows of some classes may be left out as anomalies.

x = (raw - mean) / std of the training split, in each column. Each class has the same share of every split; all rows of
the classes left out are `outside`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.transforms import standardising
from ebm_lab.datasets._labels import chosen
from ebm_lab.datasets._splits import split_kept

Fraction = Annotated[float, Field(gt=0, lt=1)]
Names = Annotated[list[str], Field(min_length=1)] | None
"""The names of the classes to keep, or None for all."""


class BundledTable(Dataset):
    """The table of `bunch`, as scikit-learn's loaders return it; for the rest see the settings of its data sets."""

    def __init__(self, bunch: Any, classes: Sequence[str] | None, val: float, test: float, seed: int) -> None:
        raw = torch.as_tensor(bunch.data, dtype=torch.float64)
        labels = torch.as_tensor(bunch.target, dtype=torch.int64)
        self.class_names = [str(name) for name in bunch.target_names]
        self.column_names = [str(name) for name in bunch.feature_names]
        parts, left_out = split_kept(len(raw), labels, chosen(classes, self.class_names), val, test, seed)
        self.transform = standardising(
            raw[parts["train"]], f"dataset.classes={classes}", lambda where: f"column(s) {where}"
        )
        self.digests = {s: digest([raw[i]]) for s, i in parts.items()}
        self.labels = {s: labels[i] for s, i in parts.items()}
        self.train, self.val, self.test = (
            self.transform.forward(raw[parts[s]]).float() for s in ("train", "val", "test")
        )
        self.outside = self.transform.forward(raw[left_out]).float() if len(left_out) else None
