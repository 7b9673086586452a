"""The identity of a data set."""

from typing import Any

from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies a data set's training split: its kind, its shape, and a digest of its numbers and labels,
    in which every setting that matters shows."""
    parts = [dataset.train, *([dataset.labels["train"]] if dataset.labels else [])]
    return {"dataset": type(dataset).__name__, "shape": list(dataset.train.shape), "digest": digest(parts)}
