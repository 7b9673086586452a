"""Bars and stripes: square pictures whose rows are each black or white, or whose columns are, with some bits flipped.

    p(x) = sum_s q(s) flip^|x - s| (1 - flip)^(d - |x - s|),    d = size^2

A pattern s is drawn as its field does it: rows or columns with equal odds, then a fair bit for each of them. All-0 and
all-1 come from both and are twice as likely, 1/2^size each; every other pattern has q = 1/2^(size + 1). Without flips,
the 2^(size + 1) pictures have the log-likelihood 28 log(1/32) + 4 log(1/16) = -108.13 at size 4. No two patterns are
one flip apart (size > 2), so methods that compare a point with its neighbours can't weigh them without flips.

Geoffrey Hinton and Terrence Sejnowski, Learning and relearning in Boltzmann machines, 1986; David MacKay, Information
Theory, Inference, and Learning Algorithms, 2003, section 43.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core.discrete import Sites, digits_of
from ebm_lab.core.registry import register
from ebm_lab.datasets._discrete import DiscreteSynthetic
from ebm_lab.distributions.table import TableLaw


@register("dataset", "bars_and_stripes")
class BarsAndStripes(DiscreteSynthetic):
    """`size`: of the side, 2 to 4; `flip`: the probability that a bit is flipped; `train` / `held_out`: sizes of the
    splits.

    `patterns` (P, 1, size, size) are the pictures without flips, and `pattern_probabilities` (P,) their q in float64.
    """

    patterns: Tensor
    pattern_probabilities: Tensor

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=2, le=4)],
        flip: Annotated[float, Field(ge=0, lt=0.5)],
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        self.bounds = (0.0, 1.0)
        bits = digits_of(torch.arange(2**size), 2, size).float()
        rows = bits.unsqueeze(2).expand(-1, size, size)
        drawn = torch.cat([rows, rows.mT]).unsqueeze(1)
        self.patterns, times = drawn.unique(dim=0, return_counts=True)
        self.pattern_probabilities = times.double() / len(drawn)
        sites = Sites((1, size, size))
        p = torch.zeros(sites.states, dtype=torch.float64)
        p[sites.number(self.patterns)] = self.pattern_probabilities
        super().__init__(TableLaw(sites, _flipped(p, flip).log()), "bars_and_stripes", train, held_out, seed)


def _flipped(p: Tensor, flip: float) -> Tensor:
    """Return the probabilities of all points (2^d,) after each bit has been flipped with probability `flip`."""
    d = (len(p) - 1).bit_length()
    for i in range(d):
        p = p.view(2**i, 2, -1)
        p = ((1 - flip) * p + flip * p.flip(1)).flatten()
    return p
