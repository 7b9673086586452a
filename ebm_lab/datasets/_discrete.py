"""Discrete data drawn from a known law, and the lattices that some of them live on."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.lattice import STATES, LatticeLaw

Size = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
"""[H, W] of a lattice."""


class DiscreteSynthetic(Synthetic):
    """Bits, or one-hot categories where `space` says so, drawn from `law`; the splits have the streams of every
    synthetic data set. Discrete data have no score."""

    space = "binary"

    def score(self, x: Tensor) -> None:
        return None


def lattice_law(
    size: tuple[int, int], sigma: float, boundary: Literal["torus", "free"], bias: float = 0.0, categories: int = 0
) -> LatticeLaw:
    """Return the Ising model, or with `categories` the Potts model. Raises UserError for a lattice that is too wide for
    transfer matrices."""
    k = categories or 2
    if k ** min(size) > STATES:
        most = max(n for n in range(11) if k**n <= STATES)
        raise UserError(
            f"dataset.size={[*size]}: log Z is computed exactly, so the shorter side may have at most {most} site(s) "
            f"of {k} values; the longer side may have any number"
        )
    if size[0] * size[1] < 2:
        raise UserError(f"dataset.size={[*size]}: one site has no neighbours; give at least two sites")
    return LatticeLaw(size, sigma, boundary == "torus", bias, k, one_hot=categories > 0)
