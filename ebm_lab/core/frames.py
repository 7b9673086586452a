"""The energy of a law in the coordinates of another: exactly, with the log-determinants of both maps.

For a law trained in z = T(raw) and wanted in x = S(raw), both invertible:

    p_x(x) = p_z(z) |dz / dx|,    E_x(x) = E(z) - log |dz / draw| + log |dx / draw|,    z = T(S^-1(x))

Z does not change. A product of densities depends on the coordinates: prod_i p_i^{w_i} of raw densities is, in x,

    sum_i w_i E_i,x(x) + (1 - sum_i w_i) log |dx / draw|

The last term is a constant where S is linear.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.core.derived import Coordinates
from ebm_lab.core.functional import EnergyFn, GradientFn, gradient_of, per_sample
from ebm_lab.core.model import Derived, Known
from ebm_lab.core.transforms import Transform

FAR = 1e15
"""The size of a coordinate beyond which densities count as zero."""


class Shifted(Derived):
    """E(x) + constant, in nats: the same law with another Z."""

    def __init__(self, energy: EnergyFn, constant: float) -> None:
        super().__init__(energy)
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x) + self.constant

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = slope(x)
            return e + self.constant, grad

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        known = self.known(x, v)
        return known and (known[0] + self.constant, known[1], known[2])


class Moved(Derived):
    """The energy of z = T(raw) as that of x = S(raw), for any invertible T = `home` and S = `frame`.

    The maps compute in float64 on the CPU, the energy in its own precision. Where a map that stretches takes z beyond
    `FAR`, whose square no float32 holds, the density counts as zero: E = inf, with gradient 0.
    """

    def __init__(self, energy: EnergyFn, home: Transform, frame: Transform) -> None:
        super().__init__(energy)
        self.home, self.frame = home, frame

    def forward(self, x: Tensor) -> Tensor:
        wide = x.cpu().double()
        z = carried(wide, self.frame, self.home)
        inside = (z.abs() < FAR).flatten(1).all(1)
        z = torch.where(per_sample(inside, z), z, 0.0)
        jump = torch.where(inside, self.frame.log_det_at(wide) - self.home.log_det_at(z), torch.inf)
        return self.energy(z.to(x)) + jump.to(x)


class Tilted(Derived):
    """E(x) + a log |dx / draw| for x = S(raw), S = `frame`."""

    def __init__(self, energy: EnergyFn, frame: Transform, a: float) -> None:
        super().__init__(energy)
        self.frame, self.a = frame, a

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x) + self.a * self.frame.log_det_at(x.cpu().double()).to(x)


def carried(x: Tensor, frame: Transform, home: Transform) -> Tensor:
    """Map x = S(raw) to z = T(raw), S = `frame` and T = `home`, (B, *shape) -> (B, *shape) in float64 on the CPU."""
    return home.forward(frame.inverse(x.cpu().double()).cpu().double()).cpu().double()


def in_frame(energy: nn.Module, home: Transform, frame: Transform, like: Tensor) -> nn.Module:
    """Return the energy of z = T(raw) as that of x = S(raw), T = `home` and S = `frame`: itself where they are equal,
    with its own formulas for derivatives where both are linear. like: one sample (*shape) on the energy's device."""
    if equal(home, frame):
        return energy
    if not (home.is_linear and frame.is_linear):
        return Moved(energy, home, frame)
    shift, factor = linear(home, frame, like)
    zero = torch.zeros(1, *like.shape, dtype=torch.float64)
    jump = float(frame.log_det_at(zero)[0]) - float(home.log_det_at(zero)[0])
    return Shifted(Coordinates(energy, shift, factor), jump)


def tilted(energy: nn.Module, frame: Transform, a: float, like: Tensor) -> nn.Module:
    """Return E(x) + a log |dx / draw| for x = S(raw), S = `frame`; itself where that is zero."""
    if not frame.is_linear:
        return Tilted(energy, frame, a) if a else energy
    constant = a * float(frame.log_det_at(torch.zeros(1, *like.shape, dtype=torch.float64))[0])
    return Shifted(energy, constant) if constant else energy


def linear(home: Transform, frame: Transform, like: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return (shift, L) of z = shift + L x for linear maps: shift (*shape) and L (d, d), or a number where L is a
    multiple of the identity; with the type and on the device of `like` (*shape)."""
    d = like.numel()
    points = torch.cat([torch.zeros(1, d), torch.eye(d)]).double().view(d + 1, *like.shape)
    z = carried(points, frame, home).reshape(d + 1, d)
    shift, factor = z[0].view(like.shape).to(like), (z[1:] - z[0]).mT
    size = float(factor.diagonal().mean())
    if bool(((factor - size * torch.eye(d).double()).abs() <= 1e-9 * abs(size)).all()):
        return shift, size
    return shift, factor.to(like)


def equal(a: Any, b: Any) -> bool:
    """Return whether two maps are the same map with the same numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.numel() == b.numel() and bool((a.cpu() == b.cpu()).all())
    if type(a) is not type(b):
        return False
    if is_dataclass(a):
        return equal(vars(a), vars(b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
