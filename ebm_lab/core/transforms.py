"""Invertible maps between raw data and the space in which models see it, with their log-determinants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError

ROUNDING = 1e-3
"""The largest rounding error allowed, as a fraction of its coordinate's standard deviation."""


class Transform(Protocol):
    """An invertible map from raw data to the space in which a model sees them."""

    @property
    def is_linear(self) -> bool:
        """Whether x is linear in raw, up to a constant."""
        ...

    def forward(self, raw: Tensor) -> Tensor:
        """Map raw (B, *shape) to x (B, *shape)."""
        ...

    def inverse(self, x: Tensor) -> Tensor:
        """Map x (B, *shape) to raw (B, *shape)."""
        ...

    def log_det_at(self, x: Tensor) -> Tensor:
        """Compute log |dx / draw| at each x (B, *shape), in nats, (B,) in float64."""
        ...


@dataclass(frozen=True)
class Affine:
    """x = (raw - shift) / scale; shift and scale broadcast against one sample.

    log p_raw(raw) = log p(x) + log_det(shape), with log_det = -sum log scale, in nats.
    """

    shift: Tensor
    scale: Tensor
    is_linear = True

    def forward(self, raw: Tensor) -> Tensor:
        return (raw - self.shift) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Map x (B, *shape) to raw data, in the wider of the two precisions: raw values far from zero (times, money)
        would lose digits in float32."""
        wide = torch.promote_types(x.dtype, torch.promote_types(self.scale.dtype, self.shift.dtype))
        return x.to(wide) * self.scale.to(x.device, wide) + self.shift.to(x.device, wide)

    def log_det(self, shape: tuple[int, ...]) -> float:
        """Compute log |dx / draw| for one sample of `shape`, in nats."""
        return -float(self.scale.double().log().expand(shape).sum())

    def log_det_at(self, x: Tensor) -> Tensor:
        """Compute log |dx / draw| at each x (B, *shape), in nats, (B,) in float64."""
        return torch.full((len(x),), self.log_det(tuple(x.shape[1:])), dtype=torch.float64, device=x.device)


def identity(dtype: torch.dtype = torch.float32) -> Affine:
    return Affine(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))


def standardising(train: Tensor, key: str, place: Callable[[list[int]], str]) -> Affine:
    """Return the map to mean 0 and standard deviation 1 in each coordinate of train (n, *shape), in float64.

    key: the setting that gave the data, with its value, for error messages; place: how they name coordinates. Raises
    UserError if the standard deviation of a coordinate is zero or only rounding noise.
    """
    if len(train) < 2:
        raise UserError(f"{key}: one training row has no standard deviation; give more rows")
    train = train.double()
    top = train.abs().amax(0)
    unit = torch.where(top > 0, top / (2 * torch.frexp(top).mantissa), 1.0)
    scaled = train / unit  # exact: unit is a power of two; without it, squares of 1e200 or 1e-200 leave float64
    shift, std = scaled.mean(0) * unit, scaled.std(0) * unit
    same = (train == train[0]).all(0)
    _refuse(same, f"{key}: {{}} never change, so they can't be scaled; drop them", place)
    noise = ~((top * (torch.finfo(torch.float64).eps / 2)).clamp_min(5e-324) <= ROUNDING * std)
    lost = "vary too little relative to their size for float64; subtract a constant from them before saving"
    _refuse(noise, f"{key}: {{}} {lost}", place)
    return Affine(shift, std)


def _refuse(bad: Tensor, text: str, place: Callable[[list[int]], str]) -> None:
    if bool(bad.any()):
        raise UserError(text.replace("{}", place([int(i) for i in bad.flatten().nonzero()[:5, 0]])))
