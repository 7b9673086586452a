"""Synthetic colour images of CIFAR-10's shape, and the configs of the runs on them."""

from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from scripts.gpu.cases import composed

NAME = "synthetic_images"
METHODS = {
    "dsm": ["objective=dsm", "energy=conv"],
    "pcd": ["objective=pcd", "energy=conv", "sampler=langevin", "sampler.steps=60"],
    "multi_dsm": ["objective=multi_dsm", "energy=score_unet"],
}
"""The methods whose speed is measured, with their networks."""


@register("dataset", NAME)
class SyntheticImages(Dataset):
    """`n` colour images of `side` x `side` pixels: smooth random fields between -1 and 1."""

    bounds = (-1.0, 1.0)

    def __init__(self, *, n: PositiveInt, side: PositiveInt, seed: NonNegativeInt) -> None:
        coarse = torch.randn(n, 3, 4, 4, generator=stream(seed, NAME))
        x = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False).tanh()
        self.train, self.val, self.test = x[: n // 2], x[n // 2 : 3 * n // 4], x[3 * n // 4 :]


def images_config(method: str, device: torch.device, side: int, *more: str) -> dict[str, Any]:
    """Return a plain config of `method` on synthetic images."""
    own = ["dataset=digits", "domain=images", "logger=none", "evaluation=[]", "compile=off", "early_stopping=off"]
    own += [*METHODS[method], "preprocess=none", "batch_size=32", f"device={device}"]
    config = composed([*own, *more])
    return config | {"dataset": {"name": NAME, "n": 1024, "side": side, "seed": 0}}
