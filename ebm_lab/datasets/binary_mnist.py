"""Black and white MNIST: 70,000 handwritten digits of 28 x 28 bits, 10,000 of them the official test set.

    P(x_i = 1) = pixel_i / 255,    shape (1, 28, 28)

static: each bit is drawn once, from `seed`. This is another draw than the fixed set that published numbers call static
(Larochelle and Murray, 2011), and log-likelihoods differ a little between draws. dynamic: training draws the bits of a
batch anew at each step; validation and test images, and `train` as evaluations see it, keep the static draw. A row's
draw does not depend on `val` or `classes`.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 1998.
Ruslan Salakhutdinov and Iain Murray, On the quantitative analysis of deep belief networks, 2008 (pixels as
probabilities).
"""

from typing import Literal

import torch
from pydantic import NonNegativeInt
from torch import Generator, Tensor

from ebm_lab.core.places import Place
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from ebm_lab.core.transforms import identity
from ebm_lab.datasets._images import HeldOut, OfficialImages, idx_pair
from ebm_lab.datasets._splits import Classes


@register("dataset", "binary_mnist")
class BinaryMNIST(OfficialImages):
    """`root`: the folder that holds MNIST/raw/*-ubyte; `download`: fetch them if they are missing; `val`: how
    many training images, or which fraction of them, to hold out for validation; `seed` chooses them and draws the bits;
    `classes`: the labels to keep, null: all; the test images of the others become `outside`; `binarise`: static, the
    bits are drawn once, or dynamic, those of training are drawn anew at each step."""

    space = "binary"

    def __init__(
        self,
        *,
        root: Place,
        download: bool,
        val: HeldOut,
        seed: NonNegativeInt,
        classes: Classes,
        binarise: Literal["static", "dynamic"],
    ) -> None:
        pairs = idx_pair("MNIST", root, download)
        draws = [stream(seed, f"binary_mnist/{split}") for split in ("train", "test")]
        both = [(torch.cat([x, _drawn(x, g)], 1), y) for (x, y), g in zip(pairs, draws, strict=True)]
        super().__init__(both[0], both[1], val, seed, classes)  # grey levels and bits as two channels on [-1, 1]
        if binarise == "dynamic":
            self.bit_probabilities = (self.train[:, :1] + 1) / 2
        self.train, self.val, self.test = (_bits(x) for x in (self.train, self.val, self.test))
        self.outside = None if self.outside is None else _bits(self.outside)
        self.bounds, self.transform = (0.0, 1.0), identity()


def _drawn(pixels: Tensor, generator: Generator) -> Tensor:
    """Return bytes that are 255 with probability pixels / 255, else 0, (n, 1, H, W)."""
    u = torch.rand(pixels.shape, generator=generator)
    return 255 * (255 * u < pixels).to(torch.uint8)


def _bits(both: Tensor) -> Tensor:
    """Return the second channel as zeros and ones."""
    return (both[:, 1:] > 0).float()
