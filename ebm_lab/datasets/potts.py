"""The Potts model on a lattice: categories that like to agree with their neighbours, with exact log Z and samples.

    log p(x) = 2 sigma sum_edges a(x_i, x_j) - log Z,    a = 1 for equal neighbours, -1 for different ones

With two states this is the Ising model without a field (datasets/ising.py). Samples are one-hot, (K, H, W); log Z comes
from transfer matrices (distributions/lattice.py). The infinite square lattice is critical at
sigma = log(1 + sqrt K) / 4: .2203434 for two states, .2512631 for three.

Renfrey B. Potts, Some generalized order-disorder transformations, 1952, https://doi.org/10.1017/S0305004100027419.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._discrete import DiscreteSynthetic, Size, lattice_law


@register("dataset", "potts")
class Potts(DiscreteSynthetic):
    """`size`: [H, W]; `states`: K, the categories of a site; `sigma`: half the log weight of an edge; `boundary`: torus
    (each row and column closes to a ring) or free; `train` / `held_out`: sizes of the splits."""

    space = "categorical"

    def __init__(
        self,
        *,
        size: Size,
        states: Annotated[int, Field(ge=2, le=256)],
        sigma: Annotated[float, Field(ge=-2, le=2)],
        boundary: Literal["torus", "free"],
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        h, w = size
        law = lattice_law((h, w), sigma, boundary, categories=states)
        super().__init__(law, "potts", train, held_out, seed)
