"""Refuse a composed law without an integral, seen along rays far from the data, and say which weights have one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_lab.core.composed import Product
from ebm_lab.core.errors import UserError
from ebm_lab.core.frames import tilted
from ebm_lab.distributions.rays import RADII, energies_along, falling, growth, needed
from ebm_lab.runs.loaded import LoadedRun


def check_integral(
    parts: Sequence[nn.Module], w: list[float], first: LoadedRun, centres: Tensor, scale: float
) -> list[str]:
    """Raise UserError where the product of the raw densities falls too slowly along a ray, or grows; return lines for
    the user.

    parts: the energies in the first run's space; centres (c, *shape): where rays begin; scale: of the data there.
    """
    frame, like = first.dataset.transform, first.dataset.mean
    rises = [growth(energies_along(part, centres, scale)) for part in parts]
    tilt = growth(energies_along(tilted(Product([_Zero()], [1.0]), frame, 1 - sum(w), like), centres, scale))
    total, d = sum(v * g for v, g in zip(w, rises, strict=True)) + tilt, like.numel()
    assert torch.is_tensor(total), "there are parts"
    bad = falling(d, total)
    if not bool(bad.any()):
        seen = bool(total.isfinite().any(1).all())
        return [] if seen else ["far out the energy is not finite along some rays: an integral is not checked there"]
    up = sum((v * g for v, g in zip(w, rises, strict=True) if v > 0), start=tilt)
    down = sum((-v * g for v, g in zip(w, rises, strict=True) if v < 0), start=torch.zeros_like(tilt))
    room = ((up - needed(d, total)) / down)[(down > 0) & total.isfinite()]
    most = float(room.min()) if room.numel() and not bool((total == -math.inf).any()) else 0.0
    if min(w) >= 0:
        allowed = "larger weights"
    elif most > 0.01:
        allowed = f"negative weights of at most {math.floor(100 * most) / 100:g} times these"
    else:
        allowed = "no negative weight of these runs"
    raise UserError(
        f"weights={w}: the law has no integral, for its energy falls or hardly grows along {int(bad.sum())} of "
        f"{len(bad)} rays, from {RADII[0]:g} to {RADII[-1]:g} scales off the data; allowed: {allowed}"
    )


class _Zero(nn.Module):
    """The energy 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))
