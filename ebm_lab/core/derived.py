"""Energies derived from energies: tempered, in other coordinates, tethered to a point, or between two energies.

Their derivatives follow from those of the inner energy by the chain rule, so that its formulas are still used.
"""

from typing import Any, TypeVar

from torch import Tensor

from ebm_lab.core.functional import (
    EnergyFn,
    GradientFn,
    KnowsDerivatives,
    flat_sum,
    gradient_of,
    known_log_odds,
    per_sample,
    score,
)
from ebm_lab.core.model import FACTS, Derived, Known, Model, condition

E = TypeVar("E", bound=EnergyFn)


class Tempered(Derived):
    """E(x) / T: the energy of exp(-E / T), more concentrated than the model for T < 1."""

    def __init__(self, energy: EnergyFn, temperature: float) -> None:
        super().__init__(energy)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x) / self.temperature

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = slope(x)
            return e / self.temperature, grad / self.temperature

        return at

    def log_odds(self, x: Tensor) -> Tensor | None:
        known = known_log_odds(self.energy, x)
        return None if known is None else known / self.temperature


def tempered(energy: E, temperature: float) -> E | Tempered:
    """Return the energy of exp(-E / T): E itself, with all that it knows of its law, at T = 1."""
    return energy if temperature == 1 else Tempered(energy, temperature)


class Guided(Derived):
    """(1 + w) E(x, y) - w E(x): the energy of p(x | y) p(y | x)^w, up to a constant, for one class y, 0-d.

    A sampler that leaves an energy invariant samples that law. Along noise levels the sum of scores at each level is
    not the score of that law blurred to the level, since the blur of a product is not the product of the blurs: what
    comes out is no sample of it.

    Jonathan Ho and Tim Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6, arXiv:2207.12598.
    """

    def __init__(self, energy: EnergyFn, y: Tensor, w: float) -> None:
        super().__init__(energy)
        self.y, self.w = y, w

    def __getattr__(self, name: str) -> Any:
        """Look up what does not depend on the class in the energy itself."""
        return getattr(self.energy, name) if name in FACTS else super().__getattr__(name)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        level: dict[str, Any] = {} if sigma is None else {"sigma": sigma}
        return (1 + self.w) * self.energy(x, **{"y": self.y, **level}) - self.w * self.energy(x, **level)

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        return condition(self, y, sigma)

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        return score(self.given(sigma=sigma), x, create_graph)


class Coordinates(Derived):
    """The energy as a function of u in x = shift + L u.

    factor: L (d, d) or a number, with a shift (*shape) that all samples share; or (B,), one number for each sample,
    with shifts (B, *shape).
    """

    def __init__(self, energy: EnergyFn, shift: Tensor, factor: Tensor | float) -> None:
        own = isinstance(factor, Tensor) and factor.ndim == 1
        super().__init__(energy, **({"shift": shift, "factor": factor} if own else {}))
        self.shared = {} if own else {"shift": shift, "factor": factor}

    def x(self, u: Tensor) -> Tensor:
        """Return x = shift + L u, (B, *shape) -> (B, *shape)."""
        self.fits(u)
        return {**self.shared, **self.bound}["shift"] + self._times(u, transposed=False)

    def _times(self, u: Tensor, transposed: bool) -> Tensor:
        """Compute L u, or L' u, for each sample of u (..., B, *shape)."""
        factor = {**self.shared, **self.bound}["factor"]
        if not isinstance(factor, Tensor) or not factor.ndim:
            return factor * u
        if factor.ndim == 1:
            return per_sample(factor, self.bound["shift"]) * u
        d = len(factor)
        return (u.reshape(-1, d) @ (factor if transposed else factor.mT)).view(u.shape)

    def forward(self, u: Tensor) -> Tensor:
        return self.energy(self.x(u))

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(u: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = slope(self.x(u.detach()))
            return e, self._times(grad, transposed=True)

        return at

    def derivatives(self, u: Tensor, v: Tensor) -> Known | None:
        known = self.known(self.x(u), self._times(v, transposed=False))
        return known and (known[0], self._times(known[1], transposed=True), known[2])


class Tethered(Derived):
    """E(x) + |x - anchor|^2 / (2 sigma^2): the law of x given its noisy observation, anchor (B, *shape); sigma is a
    number or (B,).

    Ruiqi Gao et al., Learning Energy-Based Models by Diffusion Recovery Likelihood, 2021, equation 8, arXiv:2012.08125.
    """

    def __init__(self, energy: EnergyFn, anchor: Tensor, sigma: Tensor | float) -> None:
        super().__init__(energy, anchor=anchor, sigma=sigma)
        self.sigma = sigma

    def _pull(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor]:
        """Return (x - anchor, 1 / sigma^2, (x - anchor) / sigma^2), the second as one number or for each sample."""
        self.fits(x)
        offset, sigma = x - self.bound["anchor"], self.bound.get("sigma", self.sigma)
        precision = sigma**-2
        return offset, precision, (per_sample(precision, x) if "sigma" in self.bound else precision) * offset  # type: ignore

    def forward(self, x: Tensor) -> Tensor:
        offset, _, pull = self._pull(x)
        return self.energy(x) + 0.5 * flat_sum(offset * pull)

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            offset, _, pull = self._pull(x.detach())
            e, grad = slope(x)
            return e + 0.5 * flat_sum(offset * pull), grad + pull

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        offset, precision, pull = self._pull(x)
        known = self.known(x, v)
        curvature = precision * v.flatten(2).square().sum((0, 2))
        return known and (known[0] + 0.5 * flat_sum(offset * pull), known[1] + pull, known[2] + curvature)


class Annealed(Derived):
    """(1 - b) E_0(x) + b E(x): between two energies."""

    def __init__(self, base: EnergyFn, energy: EnergyFn, b: float) -> None:
        super().__init__(energy)
        self.base, self.b = base, b

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.b) * self.base(x) + self.b * self.energy(x)

    def gradient(self) -> GradientFn:
        slopes = [(1 - self.b, gradient_of(self.base)), (self.b, gradient_of(self.energy))]

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            (e_0, grad_0), (e, grad) = (tuple(weight * t for t in slope(x)) for weight, slope in slopes)
            return e_0 + e, grad_0 + grad

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        base = self.base.derivatives(x, v) if isinstance(self.base, KnowsDerivatives) else None
        known = self.known(x, v)
        if base is None or known is None:
            return None
        e, grad, curvature = ((1 - self.b) * t_0 + self.b * t for t_0, t in zip(base, known, strict=True))
        return e, grad, curvature
