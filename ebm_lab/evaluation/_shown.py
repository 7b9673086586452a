"""How points are shown: as images, or in the plane."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.discrete import known_sites
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.evaluation._extras import plane

SHOWN = 2000
"""Points in a cloud, at most."""
PALEST = 1.2
"""The range of discrete images goes this much beyond the highest value, which is then a light grey: the gaps between
images are white."""


class Images(NamedTuple):
    """pixels: (n, C, H, W); bounds: their range."""

    pixels: Tensor
    bounds: tuple[float, float]


def as_images(x: Tensor, dataset: Dataset) -> Images | None:
    """Return points (n, *shape) as images: those of images themselves, bits on a lattice (1, H, W) black and white, and
    categories (K, H, W) as K grey levels; None for points that are no images."""
    sites = known_sites(dataset)
    if sites is not None and sites.one_hot:
        levels = x.argmax(1, keepdim=True).to(x.dtype)
        return Images(levels, (0.0, PALEST * (sites.categories - 1))) if x.ndim == 4 else None
    if sites is not None and x.ndim == 4:
        return Images(x, (0.0, PALEST))
    return None if dataset.bounds is None else Images(x, dataset.bounds)


def in_plane(x: Tensor, dataset: Dataset) -> Tensor | None:
    """Return the points of the plane that bits (n, d) stand for, (n, 2) on the CPU; None where they stand for none."""
    decode = plane(dataset)
    return None if decode is None else decode(x).detach().cpu()


def as_points(x: Tensor, dataset: Dataset) -> Tensor | None:
    """Return coordinates to draw, (n, d): real ones as they are, those that bits stand for; None where there are
    none."""
    return x if known_sites(dataset) is None else in_plane(x, dataset)


def clouds(sets: dict[str, Tensor]) -> Tensor:
    """Draw points of the plane, (n, 2) each, side by side on the same axes, which those of the first set fix."""
    first = next(iter(sets.values())).double()
    low, high = first.amin(0), first.amax(0)
    room = 0.15 * (high - low).clamp_min(1e-6)
    (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()

    def draw(fig: Any) -> None:
        panels = fig.subplots(1, len(sets), squeeze=False)[0]
        for axes, (title, points) in zip(panels, sets.items(), strict=True):
            inside = torch.isfinite(points).all(1)
            axes.plot(*subset(points[inside], SHOWN).T.numpy(), ".", ms=1.5, alpha=0.6, color="C0")
            axes.set(xlim=(left, right), ylim=(bottom, top), title=title, aspect="equal")

    return pictures.figure(draw, 3.3 * len(sets), 3.5)
