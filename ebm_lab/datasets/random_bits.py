"""A law on bits without any structure: independent normal logits of all 2^bits points.

    p(x) = exp(w(x)) / sum_y exp(w(y)),    w(x) ~ N(0, std^2)

What a model can't express it can't hide behind smoothness here, and the truth is known at every point. Choose an energy
with at least as many parameters as there are points, and training points by the million, for the sampling error of a
fit to n points is about 2^bits / (2 n) nats.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.discrete import Sites
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from ebm_lab.datasets._discrete import DiscreteSynthetic
from ebm_lab.distributions.table import TableLaw


@register("dataset", "random_bits")
class RandomBits(DiscreteSynthetic):
    """`bits`: of a point, at most 20; `std`: of the logits; `law_seed`: draws the logits; `train` / `held_out`: sizes
    of the splits."""

    def __init__(
        self,
        *,
        bits: Annotated[int, Field(ge=1, le=20)],
        std: PositiveFloat,
        law_seed: NonNegativeInt,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        logits = torch.randn(2**bits, dtype=torch.float64, generator=stream(law_seed, "random_bits/law"))
        super().__init__(TableLaw(Sites((bits,)), std * logits), "random_bits", train, held_out, seed)
