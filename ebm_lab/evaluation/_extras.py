"""What only some data sets and energies know, by the attribute that holds it; None where it is unknown."""

from collections.abc import Callable

from torch import Tensor

from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Dataset


def true_couplings(dataset: Dataset) -> Tensor | None:
    """Return the J of log p(u) = u'J u + b'u - log Z, (d, d), that the data were drawn with."""
    return getattr(dataset, "couplings", None)


def learnt_couplings(energy: EnergyFn) -> Tensor | None:
    """Return the J of E(u) = -u'J u - b'u, symmetric with a zero diagonal."""
    matrix: Tensor | None = getattr(energy, "matrix", None)
    return None if matrix is None else matrix.detach()


def filters(energy: EnergyFn) -> Tensor | None:
    """Return the weights between hidden units and the entries of x, (hidden, d)."""
    w: Tensor | None = getattr(energy, "w", None)
    return None if w is None else w.detach()


def patterns(dataset: Dataset) -> Tensor | None:
    """Return the points without noise, (P, *shape), of data that are such points with some bits flipped."""
    return getattr(dataset, "patterns", None)


def plane(dataset: Dataset) -> Callable[[Tensor], Tensor] | None:
    """Return the map from bits (n, d) to the points of the plane that they stand for, (n, 2)."""
    return getattr(dataset, "points", None)
