"""Handwritten digits: the 1,797 real 8x8 images with 17 grey levels that come inside scikit-learn.

Pixels 0 to 16 are mapped linearly to [-1, 1]. E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
UCI Machine Learning Repository, 1998.
"""

import torch
from pydantic import NonNegativeInt

from ebm_lab.core.registry import register
from ebm_lab.core.transforms import Affine
from ebm_lab.datasets._digits import BundledDigits, Fraction
from ebm_lab.datasets._splits import Classes


@register("dataset", "digits")
class Digits(BundledDigits):
    """`val` and `test` are the fractions held out; `seed` shuffles; `classes`: the digits to keep, null: all; the test
    images of the others become `outside`."""

    def __init__(self, *, val: Fraction, test: Fraction, seed: NonNegativeInt, classes: Classes) -> None:
        self.bounds = (-1.0, 1.0)
        self.transform = Affine(torch.tensor(8.0), torch.tensor(8.0))
        super().__init__(self.transform.forward, val, test, seed, classes)
