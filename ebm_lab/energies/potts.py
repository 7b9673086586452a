"""The Potts model with couplings to learn: u = x, the categories' one-hot code.

    E(x) = -x'J x - b'x,    J symmetric, (K d, K d), with no couplings within a site

Of J, blocks that add the same to all categories of a site change only the field: J is not unique, the law is.

R. B. Potts, Some Generalized Order-Disorder Transformations, 1952.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from ebm_lab.core.discrete import Draws
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.energies._pairwise import Pairwise


@register("energy", "potts")
class Potts(Pairwise):
    """Categories (K, *sites). It starts at J = 0 and b = 0. `l1`: weight of a penalty l1 sum_ij |J_ij| on every
    objective's loss."""

    needs = (Need("dataset", "discrete"),)
    slope = 1.0

    def __init__(self, dataset: Dataset, *, l1: NonNegativeFloat) -> None:
        if dataset.space == "binary":
            raise UserError("energy=potts: is for categories, and the data are bits: choose energy=ising")
        super().__init__(dataset, l1)

    def code(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def drawn(self, pull: Tensor, draws: Draws) -> Tensor:
        return draws.categories(pull)

    def decoded(self, u: Tensor) -> Tensor:
        return u
