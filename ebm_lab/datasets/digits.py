"""Handwritten digits: the 1,797 real 8x8 images with 17 grey levels that come inside scikit-learn.

Pixels 0 to 16 are mapped linearly to [-1, 1]. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
UCI Machine Learning Repository, 1998.
"""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.core.transforms import Affine
from ebm_lab.datasets._splits import Classes, keep_classes, split_indices

Fraction = Annotated[float, Field(gt=0, lt=1)]


@register("dataset", "digits")
class Digits(Dataset):
    """`val` and `test` are the fractions held out; `seed` shuffles; `classes`: the digits to keep, null: all; the test
    images of the others become `outside`."""

    def __init__(self, *, val: Fraction, test: Fraction, seed: NonNegativeInt, classes: Classes) -> None:
        from sklearn.datasets import load_digits  # a slow import, needed only here

        bunch: Any = load_digits()
        self.bounds = (-1.0, 1.0)
        self.transform = Affine(torch.tensor(8.0), torch.tensor(8.0))
        images = self.transform.forward(torch.as_tensor(bunch.images, dtype=torch.float32)).unsqueeze(1)
        targets = torch.as_tensor(bunch.target, dtype=torch.int64)
        parts = split_indices(len(images), val, test, seed)
        splits, labels = ({s: whole[i] for s, i in parts.items()} for whole in (images, targets))
        splits, self.labels, self.outside = keep_classes(splits, labels, classes)
        self.train, self.val, self.test = (splits[s] for s in ("train", "val", "test"))
