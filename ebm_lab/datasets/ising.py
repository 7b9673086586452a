"""The Ising model on a lattice, or with couplings of your own: exact log Z, samples and couplings.

    log p(x) = x' J x + b 1'x - log Z,    x in {-1, 1}^d,    J symmetric, sigma for neighbours on the lattice and 0 else

x'Jx counts each pair twice, so that a pair has the weight exp(2 J_ij x_i x_j), and the infinite lattice is critical at
sigma = .2203434. Samples are bits (1, H, W), x = 2 bit - 1. Site i = h W + w is the bit in row h and column w. On a
lattice log Z comes from transfer matrices (distributions/lattice.py), with given couplings from enumeration.

Will Grathwohl, Kevin Swersky, Milad Hashemi, David Duvenaud and Chris J. Maddison, Oops I Took A Gradient: Scalable
Sampling for Discrete Distributions, 2021, arXiv:2102.04509 (the 10 x 10 torus, whose couplings are to be found).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core.discrete import Sites
from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import register
from ebm_lab.datasets._discrete import DiscreteSynthetic, Size, lattice_law
from ebm_lab.distributions.lattice import LatticeLaw, enumerated
from ebm_lab.distributions.table import TableLaw

SITES = 20
"""The most sites with given couplings."""
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


@register("dataset", "ising")
class Ising(DiscreteSynthetic):
    """`size`: [H, W]; `sigma`: J of neighbours; `field`: b, of every site; `boundary`: torus (each row and column
    closes to a ring) or free; `couplings`: null for the lattice, or a list of [i, j, J_ij] that replaces it and its
    `sigma`, for at most 20 sites; `train` / `held_out`: sizes of the splits.

    `couplings` (d, d) and `fields` (d,) are the true J and b, in float64.
    """

    couplings: Tensor
    fields: Tensor

    def __init__(
        self,
        *,
        size: Size,
        sigma: Annotated[float, Field(ge=-2, le=2)],
        field: Annotated[float, Field(ge=-10, le=10)],
        boundary: Literal["torus", "free"],
        couplings: list[Triple] | None,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        h, w = size
        self.bounds = (0.0, 1.0)
        self.fields = torch.full((h * w,), float(field), dtype=torch.float64)
        law: LatticeLaw | TableLaw
        if couplings is None:
            law = lattice_law((h, w), sigma, boundary, bias=field)
            self.couplings = law.couplings
        else:
            self.couplings = _matrix(couplings, size)
            law = enumerated(Sites((1, h, w)), self.couplings, self.fields)
        super().__init__(law, "ising", train, held_out, seed)


def _matrix(triples: list[list[float]], size: list[int]) -> Tensor:
    """Return the symmetric J, (d, d) in float64, from its entries [i, j, J_ij], one for each pair."""
    d = size[0] * size[1]
    if d > SITES:
        raise UserError(
            f"dataset.size={size}: has {d} sites, and with dataset.couplings log Z is enumerated; allowed: at most "
            f"{SITES} sites"
        )
    j = torch.zeros(d, d, dtype=torch.float64)
    seen: set[frozenset[float]] = set()
    for a, b, value in triples:
        pair, given = frozenset((a, b)), f"dataset.couplings=[{a:g}, {b:g}, {value:g}]"
        if len(pair) < 2 or not pair <= set(range(d)):
            raise UserError(f"{given}: must be [i, j, J_ij] with two different sites from 0 to {d - 1}")
        if pair in seen:
            raise UserError(f"{given}: this pair of sites is there twice; give it once")
        seen.add(pair)
        j[int(a), int(b)] = j[int(b), int(a)] = value
    return j
