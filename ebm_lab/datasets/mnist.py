"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, 10,000 of them the official test set.

Pixels 0 to 255 are mapped linearly to [-1, 1]; shape (1, 28, 28).
Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 1998.
"""

from pydantic import NonNegativeInt

from ebm_lab.core.places import Place
from ebm_lab.core.registry import register
from ebm_lab.datasets._images import HeldOut, OfficialImages, idx_pair
from ebm_lab.datasets._splits import Classes


@register("dataset", "mnist")
class MNIST(OfficialImages):
    """`root`: the folder that holds MNIST/raw/*-ubyte; `download`: fetch them if they are missing; `val`: how
    many training images, or which fraction of them, to hold out for validation; `seed` chooses them; `classes`: the
    labels to keep, null: all; the test images of the others become `outside`."""

    def __init__(self, *, root: Place, download: bool, val: HeldOut, seed: NonNegativeInt, classes: Classes) -> None:
        training, testing = idx_pair("MNIST", root, download)
        super().__init__(training, testing, val, seed, classes)
