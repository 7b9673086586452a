"""Invertible maps between raw data and the space in which models see it, with their log-determinants."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
        return x * self.scale.to(x) + self.shift.to(x)

    def log_det(self, shape: tuple[int, ...]) -> float:
        """log |dx / draw| for one sample of `shape`, in nats."""
        return -float(self.scale.double().log().expand(shape).sum())


def identity() -> Affine:
    return Affine(torch.zeros(()), torch.ones(()))
