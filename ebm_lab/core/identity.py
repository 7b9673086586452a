"""What tells a data set from any other."""

from typing import Any

from ebm_lab.core.files import digest
from ebm_lab.core.interfaces import Dataset


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set's training split from any other: its kind, its shape and a digest of its very numbers and
    labels, which every setting of the data set that matters has a part in."""
    parts = [dataset.train, *([dataset.labels["train"]] if dataset.labels else [])]
    return {"dataset": type(dataset).__name__, "shape": list(dataset.train.shape), "digest": digest(parts)}
