"""Wines of three cultivars: 13 chemical measurements of 178 wines from one region, inside scikit-learn.

The classes are class_0, class_1 and class_2, of 59, 71 and 48 rows. S. Aeberhard and M. Forina, Wine, UCI Machine
Learning Repository, 1992, https://archive.ics.uci.edu/dataset/109/wine. The larger table of graded wines is `wine`.
"""

from pydantic import NonNegativeInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._bundled import BundledTable, Fraction, Names


@register("dataset", "wine_cultivars")
class WineCultivars(BundledTable):
    """`classes`: the names of the classes to keep, null for all; the rows of the others become `outside`; `val` and
    `test` are the fractions held out; `seed` shuffles. Each column has mean 0 and std 1 on the training split."""

    def __init__(self, *, classes: Names, val: Fraction, test: Fraction, seed: NonNegativeInt) -> None:
        from sklearn.datasets import load_wine  # a slow import, needed only here

        super().__init__(load_wine(), classes, val, test, seed)
