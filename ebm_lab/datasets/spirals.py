"""Spiral arms with Gaussian noise, and their density by quadrature along the arms.

    x = r (cos(a + 2 pi k/arms), sin(a + 2 pi k/arms)) + noise z,  a = 2 pi turns r/radius,  k uniform
    r = radius sqrt(1/25 + 24/25 t),  t ~ U[0, 1]: from a fifth of the radius outwards

The square root spreads the points nearly evenly along the arms.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.curves import NoisyCurves


@dataclass(frozen=True)
class NoisyArms:
    """The law of noisy curves, with p(x) by Gauss-Legendre quadrature on `panels` pieces of each arm, none longer than
    two stds. Eight nodes per piece give an error below 1e-6 nats among the data, even near the ends of the arms."""

    curves: NoisyCurves
    panels: int

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.curves.sample(n, generator)

    def log_prob(self, x: Tensor, chunk: int = 512) -> Tensor:
        node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))  # on [-1, 1], sum 2
        t = ((torch.arange(self.panels).unsqueeze(1) + (node + 1) / 2) / self.panels).flatten()
        nodes = torch.cat([self.curves.piece(k, t) for k in range(self.curves.pieces)])
        log_weights = (weight / (2 * self.panels * self.curves.pieces)).log().repeat(self.panels * self.curves.pieces)
        variance = self.curves.std**2
        logs = [
            torch.logsumexp(log_weights - torch.cdist(part, nodes).square() / (2 * variance), 1)
            for part in x.double().split(chunk)
        ]
        return torch.cat(logs) - math.log(2 * math.pi * variance)


@register("dataset", "spirals")
class Spirals(Synthetic):
    """`arms`: number of arms; `turns`: of each around the centre, if it started there; outer `radius`, and `noise`, its
    std, in data units; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        arms: PositiveInt,
        turns: PositiveFloat,
        radius: PositiveFloat,
        noise: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        def arm(k: int, t: Tensor) -> Tensor:
            r = (1 / 25 + 24 / 25 * t).sqrt()
            angle = 2 * math.pi * (turns * r + k / arms)
            return radius * torch.stack([r * angle.cos(), r * angle.sin()], 1)

        # |dx/dt| = 12/25 radius sqrt(1/r^2 + (2 pi turns)^2), r in units of the radius: largest at the inner end.
        speed = 12 / 25 * radius * math.hypot(5, 2 * math.pi * turns)
        law = NoisyArms(NoisyCurves(arm, arms, noise), math.ceil(speed / (2 * noise)))
        super().__init__(law, "spirals", train, held_out, seed)
