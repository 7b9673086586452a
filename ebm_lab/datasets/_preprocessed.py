"""A data set in the coordinates in which a run trains: an ordinary data set, with the map back to the given one.

    x = f_k(.. f_1(raw)),    log p_x(x) = log p_raw(raw) - sum_i log |det f_i'|

Each f_i is fitted to the training split as those before it leave that, in float64; only x itself is cast to float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import flat_sum
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.transforms import Affine, Transform, standardising

How = Literal["standardize", "whiten", "asinh", "log", "logit"]


@dataclass(frozen=True)
class Whitening:
    """x = W (raw - shift) on flattened samples, with W (d, d) and shift (*shape) in float64."""

    shift: Tensor
    w: Tensor

    def forward(self, raw: Tensor) -> Tensor:
        return ((raw.to(self.shift) - self.shift).flatten(1) @ self.w.mT).view(raw.shape)

    def inverse(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.w, x.to(self.shift).flatten(1).mT).mT.reshape(x.shape) + self.shift

    def log_det_at(self, x: Tensor) -> Tensor:
        return torch.linalg.slogdet(self.w)[1].to(x.device).expand(len(x))


MAPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "asinh": (torch.asinh, torch.sinh, lambda x: -x.cosh().log()),
    "log": (torch.log, torch.exp, lambda x: -x),
    "logit": (torch.logit, torch.sigmoid, lambda x: -torch.nn.functional.logsigmoid(torch.stack([x, -x])).sum(0)),
}
"""By name an increasing function of one coordinate, its inverse, and the log of its slope, a function of its value."""


@dataclass(frozen=True)
class Monotone:
    """x = f(raw) in each coordinate, f one of `MAPS`."""

    name: str

    def forward(self, raw: Tensor) -> Tensor:
        return MAPS[self.name][0](raw.double())

    def inverse(self, x: Tensor) -> Tensor:
        return MAPS[self.name][1](x.double())

    def log_det_at(self, x: Tensor) -> Tensor:
        return flat_sum(MAPS[self.name][2](x.double()))


@dataclass(frozen=True)
class Composed:
    """One map after another, the first one first."""

    parts: tuple[Transform, ...]

    def forward(self, raw: Tensor) -> Tensor:
        for part in self.parts:
            raw = part.forward(raw)
        return raw

    def inverse(self, x: Tensor) -> Tensor:
        for part in reversed(self.parts):
            x = part.inverse(x)
        return x

    def log_det_at(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for part in reversed(self.parts):
            total, x = total + part.log_det_at(x), part.inverse(x)
        return total


class Preprocessed(Dataset):
    """`dataset` seen through `map`."""

    def __init__(self, dataset: Dataset, map: Composed) -> None:
        self.dataset, self.map = dataset, map
        self.transform = Composed((dataset.transform, *map.parts))  # pyright: ignore (wider than an Affine)
        self.labels, self.notes = dataset.labels, dataset.notes
        self.train, self.val, self.test = (
            map.forward(split.double()).float() for split in (dataset.train, dataset.val, dataset.test)
        )
        self.outside = None if dataset.outside is None else map.forward(dataset.outside.double()).float()

    def log_prob(self, x: Tensor) -> Tensor | None:
        log_p = self.dataset.log_prob(self.map.inverse(x.double()))
        return None if log_p is None else (log_p.double() - self.map.log_det_at(x)).to(x)


def preprocessed(dataset: Dataset, how: How | Sequence[How]) -> Dataset:
    """Return `dataset` in other coordinates: each of `how`, one after another. standardize: every coordinate to mean 0
    and standard deviation 1; whiten: to the identity covariance; asinh, log and logit: that function of each
    coordinate. Raises UserError where the training data are not in the domain of such a function, or where a direction
    has no spread."""
    train, parts = dataset.train.double(), []
    for name in (how,) if isinstance(how, str) else how:
        parts.append(_fitted(name, train))
        train = parts[-1].forward(train)
        if not bool(train.isfinite().all()):
            raise UserError(f"preprocessing '{name}': training data lie outside its domain, or on its edge")
    return Preprocessed(dataset, Composed(tuple(parts)))


def _fitted(name: str, train: Tensor) -> Transform:
    if name in MAPS:
        return Monotone(name)
    affine = standardising(train, f"preprocessing '{name}'", lambda where: f"coordinate(s) {where}")
    return affine if name == "standardize" else _whitening(affine, train)


def _whitening(affine: Affine, train: Tensor) -> Whitening:
    """The map to identity covariance, W = C^(-1/2) S^-1, with C the correlations and S the standard deviations: scales
    of different size in different coordinates then cost no digits."""
    z = affine.forward(train).flatten(1)
    value, vector = torch.linalg.eigh(z.mT @ z / (len(z) - 1))
    if float(value[0]) < 1e-10 * float(value[-1]):
        raise UserError("preprocessing 'whiten': a direction has no spread; drop coordinates that others determine")
    root = vector * value.rsqrt() @ vector.mT
    return Whitening(affine.shift, root / affine.scale.flatten())
