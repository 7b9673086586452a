"""Invertible maps between raw data and the space in which models see it, with their log-determinants."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError

ROUNDING = 1e-3
"""Rounding may move a value by this share of its coordinate's standard deviation, and not by more."""


class Transform(Protocol):
    """An invertible map from raw data to the space in which a model sees them."""

    def forward(self, raw: Tensor) -> Tensor:
        """raw (B, *shape) -> x (B, *shape)."""
        ...

    def inverse(self, x: Tensor) -> Tensor:
        """x (B, *shape) -> raw (B, *shape)."""
        ...

    def log_det_at(self, x: Tensor) -> Tensor:
        """log |dx / draw| at each x (B, *shape), in nats, (B,) in float64."""
        ...


@dataclass(frozen=True)
class Affine:
    """x = (raw - shift) / scale; shift and scale broadcast against one sample.

    log p_raw(raw) = log p(x) + log_det(shape), with log_det = -sum log scale, in nats.
    """

    shift: Tensor
    scale: Tensor

    def forward(self, raw: Tensor) -> Tensor:
        return (raw - self.shift) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Raw data of x (B, *shape), in the wider of the two precisions: raw data far from zero (times, money) would
        lose their digits in float32."""
        wide = torch.promote_types(x.dtype, torch.promote_types(self.scale.dtype, self.shift.dtype))
        return x.to(wide) * self.scale.to(x.device, wide) + self.shift.to(x.device, wide)

    def log_det(self, shape: tuple[int, ...]) -> float:
        """log |dx / draw| for one sample of `shape`, in nats."""
        return -float(self.scale.double().log().expand(shape).sum())

    def log_det_at(self, x: Tensor) -> Tensor:
        """log |dx / draw| at each x (B, *shape), in nats, (B,) in float64."""
        return torch.full((len(x),), self.log_det(tuple(x.shape[1:])), dtype=torch.float64, device=x.device)


def identity(dtype: torch.dtype = torch.float32) -> Affine:
    return Affine(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))


def standardising(train: Tensor, key: str, place: Callable[[list[int]], str]) -> Affine:
    """The map to mean 0 and standard deviation 1 in each coordinate of train (n, *shape), in float64.

    key: the setting that the data came by, with its value; place: how a message names coordinates. Raises UserError
    where a coordinate has no standard deviation to be divided by, or only one that is rounding noise.
    """
    if len(train) < 2:
        raise UserError(f"{key}: one training row has no standard deviation; give more rows")
    train = train.double()
    top = train.abs().amax(0)
    unit = torch.where(top > 0, top / (2 * torch.frexp(top).mantissa), 1.0)
    scaled = train / unit  # exact, for a unit is a power of two; without it, squares of 1e200 or 1e-200 leave float64
    shift, std = scaled.mean(0) * unit, scaled.std(0) * unit
    same = (train == train[0]).all(0)
    _refuse(same, f"{key}: {{}} never change, so they can't be scaled; drop them", place)
    noise = ~((top * (torch.finfo(torch.float64).eps / 2)).clamp_min(5e-324) <= ROUNDING * std)
    lost = "vary by so little beside their size that float64 rounds it away; take a constant from them before you save"
    _refuse(noise, f"{key}: {{}} {lost}", place)
    return Affine(shift, std)


def _refuse(bad: Tensor, text: str, place: Callable[[list[int]], str]) -> None:
    if bool(bad.any()):
        raise UserError(text.replace("{}", place([int(i) for i in bad.flatten().nonzero()[:5, 0]])))
