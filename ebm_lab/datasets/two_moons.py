"""Two moons: two interleaved half circles with Gaussian noise, and their density by quadrature along the curves.

(cos t, sin t) or (1 - cos t, 1/2 - sin t) with equal odds, t ~ U[0, pi];  minus (1/2, 1/4), times 3/2, plus noise
"""

import math

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from ebm_lab.distributions.curves import NoisyCurves


def moon(which: int, t: Tensor) -> Tensor:
    """Return the points of half circle 0 or 1 at t in [0, 1], (n,) -> (n, 2)."""
    x, y = (math.pi * t).cos(), (math.pi * t).sin()
    points = torch.stack([x, y], 1) if which == 0 else torch.stack([1 - x, 0.5 - y], 1)
    return 1.5 * (points - torch.tensor([0.5, 0.25], dtype=t.dtype))


@register("dataset", "two_moons")
class TwoMoons(Dataset):
    """`noise`: the std, in data units; `train` / `held_out`: sizes of the training and of each held-out split."""

    def __init__(
        self, *, noise: PositiveFloat, train: PositiveInt, held_out: PositiveInt, seed: NonNegativeInt
    ) -> None:
        nodes = max(1000, math.ceil(1.5 * math.pi / (noise / 8)))  # neighbours at most an eighth of the noise apart
        self.law: NoisyCurves = NoisyCurves(moon, 2, noise, nodes)
        sizes = {"train": train, "val": held_out, "test": held_out}
        drawn = {split: self.law.labelled(n, stream(seed, f"two_moons/{split}")) for split, n in sizes.items()}
        self.train, self.val, self.test = (x.float() for x, _ in drawn.values())
        self.labels, self.class_names = {split: y for split, (_, y) in drawn.items()}, ["upper moon", "lower moon"]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.law.log_prob(x)

    def class_log_prob(self, x: Tensor) -> Tensor:
        return self.law.piece_log_prob(x).log_softmax(1)
