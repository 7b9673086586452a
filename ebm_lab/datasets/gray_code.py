"""Points of the plane as bits in Gray code: energies of 32 bits whose pictures are familiar.

Each coordinate becomes bits/2 bits (distributions/gray.py): the number of its cell, in Gray code, the highest bit
first. The cells cover [-reach, reach]^2, in which all points lie but one in 10^12, at a scale that does not depend on
the draw:

    scale = 2^(bits/2 - 1) / reach,    H(bits) = h + 2 log scale,    reach = 8 for the pinwheel and 4 for the others

with h the entropy of the density. No model's mean -log q is below H: for eight_gaussians at 32 bits it is
1.698 + 2 log 8192 = 19.720 nats. The scale of Dai et al. follows the largest coordinate drawn, by which their floor
moves by .07 nats between draws, and their sets have other shapes; compare differences from the floor.

Hanjun Dai, Rishabh Singh, Bo Dai, Charles Sutton and Dale Schuurmans, Learning Discrete Energy-based Models via
Auxiliary-variable Local Exploration, 2020, arXiv:2011.05363.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.core.registry import build, register
from ebm_lab.datasets._discrete import DiscreteSynthetic
from ebm_lab.distributions.gray import Coded, GrayCode

Toy = Literal["eight_gaussians", "twenty_five_gaussians", "two_moons", "pinwheel", "rings", "spirals", "checkerboard"]
SETTINGS: dict[str, dict[str, Any]] = {
    "eight_gaussians": {"radius": 2.0, "std": 0.2},
    "twenty_five_gaussians": {"spacing": 1.0, "std": 0.1},
    "two_moons": {"noise": 0.15},
    "pinwheel": {"arms": 5, "radius": 2.0, "radial_std": 0.6, "tangential_std": 0.2, "twist": 1.0},
    "rings": {"radii": [0.8, 1.6, 2.4], "noise": 0.1},
    "spirals": {"arms": 2, "turns": 1.5, "radius": 2.5, "noise": 0.1},
    "checkerboard": {"squares": 4, "side": 1.0},
}
"""The settings of each set of points, those of its own YAML."""
REACH = {"pinwheel": 8.0}
"""Half the side of the square that the cells cover, where it is not 4. Powers of 2 put the checkerboard's edges between
cells."""


@register("dataset", "gray_code")
class GrayCoded(DiscreteSynthetic):
    """`toy`: the set of points; `bits`: of both coordinates together, even, 16 to 40; `train` / `held_out`: sizes of
    the splits."""

    def __init__(
        self,
        *,
        toy: Toy,
        bits: Annotated[int, Field(ge=16, le=40, multiple_of=2)],
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        self.code = GrayCode(bits // 2, 2 ** (bits // 2 - 1) / REACH.get(toy, 4.0))
        super().__init__(Coded(_law(toy), self.code), "gray_code", train, held_out, seed)

    def points(self, x: Tensor) -> Tensor:
        """Return the points of the plane that bits (n, bits) stand for, (n, 2) in float64: the centres of cells."""
        return self.code.decode(x)


def _law(toy: str) -> Distribution:
    source: Dataset = build("dataset", {"name": toy, **SETTINGS[toy], "train": 1, "held_out": 1, "seed": 0})
    assert source.law is not None, "all of them have one"
    return source.law
