"""The interface of models, energies derived from another energy, and energies at given labels or levels.

A derived energy holds the inner energy as a module, and never its tensors, so that both share parameters, averages and
compiled graphs. One that has a value for each sample is bound to its batch: it takes that many samples, in that order,
and `rows(index)` binds it to other rows.
"""

from abc import ABC, abstractmethod
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn, GradientFn, KnowsDerivatives, rows_of, score

Known = tuple[Tensor, Tensor, Tensor]
"""What `derivatives(x, v)` returns: E(x), grad_x E and sum_k v_k' (Hess E) v_k."""


class Model(KnowsDerivatives):
    """A model that has a score: an energy or a score network."""

    def score(self, x: Tensor, create_graph: bool = False) -> Tensor:
        """Compute grad_x log p(x), (B, *shape) -> (B, *shape), in nats per data unit; detached unless
        `create_graph`."""
        return score(self, x, create_graph)

    def rows(self, index: Tensor) -> "Model":
        """Return the model bound to rows `index` (n,) of its batch; itself if it is bound to no batch."""
        return self

    def gradient_given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> GradientFn | None:
        """Return `gradient()` at labels y or levels sigma, or None if there is no formula for it."""
        return None

    def derivatives_given(
        self, x: Tensor, v: Tensor, *, y: Tensor | None = None, sigma: Tensor | float | None = None
    ) -> Known | None:
        """Return `derivatives(x, v)` at labels y or levels sigma, or None if there is no formula for it."""
        return None


FACTS = ("ladder", "classes", "prior", "mean", "scale")
"""Attributes that a conditioned energy takes from its inner energy."""


@cache
def _conditions(model: type[KnowsDerivatives]) -> frozenset[str]:
    """Return the names of the conditions that a model's `forward` takes in addition to x."""
    return frozenset(signature(model.forward).parameters) & {"y", "sigma"}


def _not_none(y: Tensor | None, sigma: Tensor | float | None) -> dict[str, Any]:
    return {name: value for name, value in (("y", y), ("sigma", sigma)) if value is not None}


def condition(energy: Model, y: Tensor | None, sigma: Tensor | float | None) -> Model:
    """Return `energy` at labels y or levels sigma, whichever are given; itself if neither is."""
    given = _not_none(y, sigma)
    for name in given.keys() - _conditions(type(energy)):
        raise UserError(f"energy '{type(energy).__name__}' has no {'labels' if name == 'y' else 'noise levels'}")
    return Conditioned(energy, given) if given else energy


class Derived(Model, ABC):
    """An energy derived from `energy`. `bound`: the values that have one row for each sample, by name."""

    def __init__(self, energy: EnergyFn, **bound: Any) -> None:
        super().__init__()
        self.energy = energy
        self.bound: dict[str, Tensor] = {n: v for n, v in bound.items() if isinstance(v, Tensor) and v.ndim}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute the energy in nats, (B, *shape) -> (B,)."""

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return the same kind of energy, made of the inner energy at labels y or levels sigma."""
        if y is None and sigma is None:
            return self
        return self._like({"energy": self.energy.given(y=y, sigma=sigma)}, self.bound)  # type: ignore

    def rows(self, index: Tensor) -> Model:
        inner = {n: rows_of(m, lambda: index) for n, m in self._modules.items()}  # type: ignore
        return self._like(inner, {name: value[index] for name, value in self.bound.items()})

    def _like(self, modules: dict[str, Any], bound: dict[str, Tensor]) -> Model:
        other = object.__new__(type(self))
        vars(other).update({**vars(self), "_modules": {**self._modules, **modules}, "bound": bound})
        return other

    def fits(self, x: Tensor) -> None:
        """Raise UserError if the batch does not have as many rows as the values that this energy is bound to."""
        for name, value in self.bound.items():
            if len(value) != len(x):
                raise UserError(
                    f"{type(self).__name__}: its '{name}' has {len(value)} rows, and the batch has {len(x)}: "
                    f"bind the energy to these samples with its rows(index)"
                )

    def known(self, x: Tensor, v: Tensor) -> Known | None:
        """Return the derivatives of the inner energy if it has formulas for them, else None."""
        return self.energy.derivatives(x, v) if isinstance(self.energy, KnowsDerivatives) else None


def values_bound(energy: EnergyFn) -> Tensor | None:
    """Return the values that an energy, and those within it, are bound to, (B, k) in float64 with a row for each
    sample; None where it is bound to none."""
    made = [m for m in energy.modules() if isinstance(m, Derived)] if isinstance(energy, nn.Module) else []
    values = [value.detach().double().reshape(len(value), -1) for m in made for value in m.bound.values()]
    return torch.cat(values, 1) if values else None


class Conditioned(Derived):
    """x -> E(x, y, sigma) for labels y (B,), or levels sigma, a number or (B,)."""

    def __init__(self, energy: Model, given: dict[str, Any]) -> None:
        super().__init__(energy, **given)
        self.shared = {name: value for name, value in given.items() if name not in self.bound}

    def __getattr__(self, name: str) -> Any:
        """Look up what does not depend on the condition in the energy itself."""
        return getattr(self.energy, name) if name in FACTS else super().__getattr__(name)

    def forward(self, x: Tensor, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Tensor:
        self.fits(x)
        return self.energy(x, **{**self.held, **_not_none(y, sigma)})

    @property
    def held(self) -> dict[str, Any]:
        """The condition, by name."""
        return {**self.shared, **self.bound}

    def gradient(self) -> GradientFn | None:
        return cast(Model, self.energy).gradient_given(**self.held)

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        self.fits(x)
        return cast(Model, self.energy).derivatives_given(x, v, **self.held)

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        merged = {**self.held, **_not_none(y, sigma)}
        return condition(cast(Model, self.energy), merged.get("y"), merged.get("sigma"))

    def logits(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Compute -E(x, y) of every label, (B, K), at the levels to which this energy is bound, or at `sigma`."""
        self.fits(x)
        held = {**self.held, **_not_none(None, sigma)}
        return self.energy.logits(x, **{name: value for name, value in held.items() if name == "sigma"})

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        return score(self.given(sigma=sigma), x, create_graph)
