"""What makes Z exist: a fixed quadratic, or a base fitted to the data beside a network that is bounded far out.

    base=none:    E(x) = f(z) + |W (x - mean)|^2 / (2 width^2)
    otherwise:    E(x) = f(w) - log base(x),    w = z / s,    s = sqrt(1 + |z|^2 / (d R^2)),    z = (x - mean) / scale

A base may fall more slowly than any network grows, as a Student law does, so f sees w, whose length stays below
sqrt(d) R: with c the largest |f| there, exp(-c) <= Z <= exp(c). w is nearly z where the data are (|z|^2 is about d).
With J = dw / dz, which is symmetric, and g, H the derivatives of f in w:

    J v = v / s - z (z . v) / (d R^2 s^3),    grad_z f = J g,    v' Hess_z f v = (J v)' H (J v) + g . w''
    w'' = -2 v s' / s^2 + z (2 s'^2 / s^3 - s'' / s^2),   the second derivative of w along v
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.interfaces import Dataset, Distribution, Energy
from ebm_lab.distributions.base import Base, BaseLaw
from ebm_lab.distributions.fitting import BaseName, fit_base
from ebm_lab.distributions.projections import are_hidden, non_gaussian_directions
from ebm_lab.models.layers import Quadratic

RADIUS = 6.0
"""R: the root mean square of a coordinate, in stds of the data, that no w exceeds."""


class Bound:
    """The map from z to w, for z (B, *shape) of d = `dimensions` numbers."""

    def __init__(self, dimensions: int) -> None:
        self.c = 1 / (dimensions * RADIUS**2)

    def _length(self, z: Tensor) -> Tensor:
        """s, (B, 1)."""
        return (1 + self.c * z.square().flatten(1).sum(1, keepdim=True)).sqrt()

    def __call__(self, z: Tensor) -> Tensor:
        return z / self._length(z).view(-1, *[1] * (z.ndim - 1))

    def turn(self, z: Tensor, v: Tensor) -> Tensor:
        """J v for v (..., B, d) at z (B, d)."""
        s = self._length(z)
        return v / s - z * ((z * v).sum(-1, keepdim=True) * self.c / s**3)

    def bend(self, z: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """sum_k g . w''_k, (B,), for v (K, B, d), and z and g (B, d)."""
        s = self._length(z)[:, 0]
        along = (z * v).sum(-1)
        s1 = self.c * along / s
        s2 = (self.c * v.square().sum(-1) - s1 * s1) / s
        return (((g * z).sum(-1) * (2 * s1 * s1 / s - s2) - 2 * (g * v).sum(-1) * s1) / s**2).sum(0)


class Based(Energy):
    """An energy with the setting `base`. `law`: the fitted base, or None; `bound`: what the network's input goes
    through, or None; `resolved` and `notes`: what `auto` chose, and lines for the user."""

    law: Base | None
    bound: Bound | None
    resolved: Mapping[str, Any] = {}
    notes: Sequence[str] = ()

    def build_base(self, dataset: Dataset, base: BaseName, levels: bool = False) -> None:
        """Fit the base to the training data. levels: the energy has noise levels, along which the base is blurred."""
        law, name, notes = fit_base(dataset, base, levels)
        real = law is not None and dataset.space == "continuous"
        self.law, self.bound = law, Bound(dataset.mean.numel()) if real else None
        self.resolved = {**self.resolved, **({"base": name} if base == "auto" else {})}
        self.notes = [*self.notes, *notes]

    def begin_at_base(self, last: nn.Linear | nn.Conv2d) -> None:
        """Set the network's last layer to zero where there is a base, so that training begins at the base itself.

        No score says by how much f differs between modes far apart, and there it stays as it began."""
        if self.law is not None:
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def look_along_hidden(self, first: nn.Module, dataset: Dataset) -> None:
        """Turn half of the units of the `first` layer, which sees z, along the directions in which the data are no
        Gaussian, where there is a base and they are hidden (distributions/projections.py)."""
        if self.bound is None or not are_hidden(len(dataset.train), dataset.mean.numel()):
            return
        x, held_out = (part.flatten(1).cpu() for part in (dataset.train, dataset.val))
        directions = non_gaussian_directions(x, held_out) * dataset.scale
        if len(directions):
            weight = cast(nn.Linear, first).weight
            half = len(weight) // 2
            along = directions[torch.arange(half) % len(directions)].to(weight)
            signs = torch.randn(half, 1).sign().to(along)
            with torch.no_grad():
                weight[:half] = math.sqrt(2) * signs * along
            self.notes = [*self.notes, f"the network begins with {len(directions)} direction(s) of no Gaussian shape"]

    @property
    def base(self) -> Distribution | None:
        """The base as a law, at the lowest level where there are many; None where there is none."""
        return None if self.law is None else BaseLaw(self.law)


class Anchored(Based):
    """An energy of one level: `anchor`, a fixed quadratic or the base, and a network. `mean`, `scale`: of the data."""

    quadratic: Quadratic | None

    def build_anchor(self, dataset: Dataset, base: BaseName, confine: float | None, shape: Any, floor: float) -> None:
        """Build the quadratic, or fit the base in its place."""
        self.build_base(dataset, base)
        self.quadratic = Quadratic(dataset, confine, shape, floor) if self.law is None else None

    def anchor(self, x: Tensor) -> Tensor | float:
        """What the energy adds to the network, (B,)."""
        return self.quadratic(x) if self.law is None else self.law(x)  # type: ignore

    def anchor_gradient(self) -> Callable[[Tensor], tuple[Tensor | float, Tensor | float]]:
        """Return x -> the same, with its gradient, (B, *shape)."""
        return self.quadratic.gradient() if self.law is None else self.law.with_gradient  # type: ignore

    def anchor_curvature(self, x: Tensor, v: Tensor) -> Tensor | float:
        """sum_k v_k' Hess v_k of the anchor, (B,), for v (K, B, *shape)."""
        return self.quadratic.curvature(v) if self.law is None else self.law.curvature(x, v)  # type: ignore


class AnchoredImages(Anchored):
    """An energy of images whose network sees pixels as they are; with a base, as mean + scale w."""

    mean: Tensor

    def build_anchor(self, dataset: Dataset, base: BaseName, confine: float | None, shape: Any, floor: float) -> None:
        super().build_anchor(dataset, base, confine, shape, floor)
        self.scale = dataset.scale
        if self.bound is not None:
            self.register_buffer("mean", dataset.mean.clone())

    def seen(self, x: Tensor) -> Tensor:
        """What the network sees of x, (B, *shape)."""
        if self.bound is None:
            return x
        return self.mean + self.scale * self.bound((x - self.mean) / self.scale)
