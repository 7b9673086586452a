"""Energies made of several energies: products, quotients and mixtures of their laws.

    Product:    E(x) = sum_i w_i E_i(x),                                 p ~ prod_i p_i^{w_i}
    MixtureOf:  E(x) = -log sum_i w_i exp(-E_i(x)) / Z_i,                p = sum_i w_i p_i,    sum_i w_i = 1

A product needs no normalising constant of its parts. A mixture needs all of them: without, each part would weigh
w_i Z_i. A negative weight takes a part away, p_1 / p_2^a; that is the density of a law only if the rest of E grows
faster far out (distributions/rays.py probes it).

With r_i = w_i exp(-E_i) / Z_i over their sum, the derivatives of a mixture along directions v_k are

    grad E = sum_i r_i grad E_i
    v' Hess E v = sum_i r_i v' Hess E_i v - sum_i r_i (grad E_i . v)^2 + (grad E . v)^2

Geoffrey E. Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002 (products).
Yilun Du, Shuang Li and Igor Mordatch, Compositional Visual Generation with Energy Based Models, 2020 (product, mixture
and negation), arXiv:2004.06030.
Yilun Du et al., Reduce, Reuse, Recycle, 2023 (what holds at one noise level and not along many), arXiv:2302.11552.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import GradientFn, KnowsDerivatives, gradient_of, per_sample, rows_of
from ebm_lab.core.model import Known, Model

Op = Literal["product", "mixture", "negation"]


class Combined(Model, ABC):
    """An energy made of `energies`, modules of the same x, with a weight each. It holds them and not their tensors."""

    def __init__(self, energies: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.energies = nn.ModuleList(energies)
        self.weights = _numbers("weights", weights, len(energies))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute the energy in nats, (B, *shape) -> (B,)."""

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return the same combination of the parts at labels y or levels sigma."""
        if y is None and sigma is None:
            return self
        return self._of([part.given(y=y, sigma=sigma) for part in self.energies])  # type: ignore

    def rows(self, index: Tensor) -> Model:
        return self._of([rows_of(part, lambda: index) for part in self.energies])  # type: ignore

    def _of(self, energies: list[nn.Module]) -> Model:
        other = copy(self)
        other._modules = {**self._modules, "energies": nn.ModuleList(energies)}
        return other

    def _known(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return the derivatives of all parts, (n, B), (n, B, *shape) and (n, B), or None if one has no formula."""
        found = [part.derivatives(x, v) if isinstance(part, KnowsDerivatives) else None for part in self.energies]
        known = [f for f in found if f is not None]
        if len(known) < len(found):
            return None
        e, grad, curvature = (torch.stack(parts) for parts in zip(*known, strict=True))
        return e, grad, curvature

    def _slopes(self) -> list[GradientFn]:
        return [gradient_of(part) for part in self.energies]


class Product(Combined):
    """E(x) = sum_i w_i E_i(x): the energy of prod_i p_i^{w_i}. A negative weight divides by a part."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([w * part(x) for w, part in zip(self.weights, self.energies, strict=True)]).sum(0)

    def gradient(self) -> GradientFn:
        slopes = self._slopes()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            found = [slope(x) for slope in slopes]
            e = sum(w * e for w, (e, _) in zip(self.weights, found, strict=True))
            grad = sum(w * g for w, (_, g) in zip(self.weights, found, strict=True))
            return e, grad  # type: ignore

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        known = self._known(x, v)
        if known is None:
            return None
        w = x.new_tensor(self.weights)
        e, grad, curvature = (torch.tensordot(w, t, 1) for t in known)
        return e, grad, curvature


class MixtureOf(Combined):
    """E(x) = -log sum_i w_i exp(-E_i(x) - log Z_i): the energy of the mixture sum_i w_i p_i, with log Z = 0.

    weights: positive, divided by their sum; log_z: log Z_i of each part, in nats. An error of log Z_i changes the share
    of part i by that factor: with all of them left out, the shares would be w_i Z_i over their sum, so that a part
    would count by the arbitrary constant that its training left in its energy.
    """

    def __init__(self, energies: Sequence[nn.Module], weights: Sequence[float], log_z: Sequence[float]) -> None:
        super().__init__(energies, weights)
        if min(self.weights) <= 0:
            raise UserError(f"weights={list(weights)}: the weights of a mixture must be positive")
        self.log_z = _numbers("log_z", log_z, len(energies))
        total = sum(self.weights)
        self.weights = [w / total for w in self.weights]

    def logits(self, x: Tensor) -> Tensor:
        """Compute log w_i p_i(x) of every part, (B, *shape) -> (B, n)."""
        return self._logits(torch.stack([part(x) for part in self.energies])).T

    def _logits(self, e: Tensor) -> Tensor:
        """Compute log w_i - E_i - log Z_i from E_i, (n, B) -> (n, B)."""
        offsets = [math.log(w) - z for w, z in zip(self.weights, self.log_z, strict=True)]
        return e.new_tensor(offsets)[:, None] - e

    def forward(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(self.logits(x), 1)

    def gradient(self) -> GradientFn:
        slopes = self._slopes()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = (torch.stack(parts) for parts in zip(*(slope(x) for slope in slopes), strict=True))
            logits = self._logits(e)
            return -torch.logsumexp(logits, 0), self._mean(logits, grad)

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        known = self._known(x, v)
        if known is None:
            return None
        e, grads, curvatures = known
        logits = self._logits(e)
        shares, grad = logits.softmax(0), self._mean(logits, grads)
        along = (grads[:, None] * v).flatten(3).sum(3).square().sum(1)  # sum_k (grad E_i . v_k)^2, (n, B)
        own = (grad * v).flatten(2).sum(2).square().sum(0)
        return -torch.logsumexp(logits, 0), grad, (shares * (curvatures - along)).sum(0) + own

    @staticmethod
    def _mean(logits: Tensor, grads: Tensor) -> Tensor:
        """Average (n, B, *shape) by the shares of (n, B) logits."""
        return torch.stack([per_sample(r, g) * g for r, g in zip(logits.softmax(0), grads, strict=True)]).sum(0)


def _numbers(name: str, values: Sequence[float], n: int) -> list[float]:
    """Return one finite number for each of n energies; raise UserError for anything else."""
    numbers = [float(value) for value in values]
    if not n or len(numbers) != n or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}={list(values)}: must be one finite number for each of the {n} energies")
    return numbers
