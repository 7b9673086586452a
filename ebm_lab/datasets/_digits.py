"""The 1,797 handwritten digits of 8 x 8 pixels and 17 grey levels that come inside scikit-learn.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.datasets._splits import keep_classes, split_indices

Fraction = Annotated[float, Field(gt=0, lt=1)]


class BundledDigits(Dataset):
    """Splits of the digits, with labels. seen: maps grey levels 0 to 16, (n, 8, 8), to model space; for the rest see
    the settings of its data sets."""

    def __init__(
        self, seen: Callable[[Tensor], Tensor], val: float, test: float, seed: int, classes: list[int] | None
    ) -> None:
        from sklearn.datasets import load_digits  # a slow import, needed only here

        bunch: Any = load_digits()
        images = seen(torch.as_tensor(bunch.images, dtype=torch.float32)).unsqueeze(1)
        targets = torch.as_tensor(bunch.target, dtype=torch.int64)
        parts = split_indices(len(images), val, test, seed)
        splits, labels = ({s: whole[i] for s, i in parts.items()} for whole in (images, targets))
        splits, self.labels, self.outside = keep_classes(splits, labels, classes)
        self.train, self.val, self.test = (splits[s] for s in ("train", "val", "test"))
