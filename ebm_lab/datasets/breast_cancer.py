"""Breast tumours: 30 measurements of cell nuclei in images of 569 fine needle aspirates, inside scikit-learn.

The classes are malignant and benign, of 212 and 357 rows. W. Wolberg, O. Mangasarian, N. Street and W. Street, Breast
Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository, 1993, https://archive.ics.uci.edu/dataset/17.
"""

from pydantic import NonNegativeInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._bundled import BundledTable, Fraction, Names


@register("dataset", "breast_cancer")
class BreastCancer(BundledTable):
    """`classes`: the names of the classes to keep, null for both; the rows of the other become `outside`; `val` and
    `test` are the fractions held out; `seed` shuffles. Each column has mean 0 and std 1 on the training split."""

    def __init__(self, *, classes: Names, val: Fraction, test: Fraction, seed: NonNegativeInt) -> None:
        from sklearn.datasets import load_breast_cancer  # a slow import, needed only here

        super().__init__(load_breast_cancer(), classes, val, test, seed)
