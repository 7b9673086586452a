"""What a model can do, an energy made of another one, and an energy at given labels or levels.

An energy made of another holds it as a module, and never its tensors, so that parameters, averages and compiled graphs
stay those of the one energy. One that has values for each sample is bound to its batch: it takes that many samples, in
that order, and `rows(index)` is the same of other rows.
"""

from abc import ABC, abstractmethod
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn, KnowsDerivatives, rows_of, score

Known = tuple[Tensor, Tensor, Tensor]
"""What `derivatives(x, v)` returns: E(x), grad_x E and sum_k v_k' (Hess E) v_k."""


class Model(KnowsDerivatives):
    """What has a score: an energy, or a network that is a score itself."""

    def score(self, x: Tensor, create_graph: bool = False) -> Tensor:
        """Compute grad_x log p(x), (B, *shape) -> (B, *shape), in nats per data unit; detached unless
        `create_graph`."""
        return score(self, x, create_graph)

    def rows(self, index: Tensor) -> "Model":
        """Return the model of rows `index` (n,) of the batch that it is bound to; itself where it is bound to none."""
        return self


FACTS = ("ladder", "classes", "prior", "mean", "scale")
"""What a conditioned energy has from the one that it is made of."""


@cache
def _conditions(model: type[KnowsDerivatives]) -> frozenset[str]:
    """The names of the conditions that a model's `forward` takes beside x."""
    return frozenset(signature(model.forward).parameters) & {"y", "sigma"}


def _told(y: Tensor | None, sigma: Tensor | float | None) -> dict[str, Any]:
    return {name: value for name, value in (("y", y), ("sigma", sigma)) if value is not None}


def condition(energy: Model, y: Tensor | None, sigma: Tensor | float | None) -> Model:
    """Return `energy` at labels y or levels sigma, whichever are given; itself where none is."""
    given = _told(y, sigma)
    for name in given.keys() - _conditions(type(energy)):
        raise UserError(f"energy '{type(energy).__name__}' has no {'labels' if name == 'y' else 'noise levels'}")
    return Conditioned(energy, given) if given else energy


class Derived(Model, ABC):
    """An energy made of `energy`. `bound`: its values with one row for each sample, by name."""

    def __init__(self, energy: EnergyFn, **bound: Any) -> None:
        super().__init__()
        self.energy = energy
        self.bound: dict[str, Tensor] = {n: v for n, v in bound.items() if isinstance(v, Tensor) and v.ndim}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute the energy in nats, (B, *shape) -> (B,)."""

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        """Return the same made of the energy at labels y or levels sigma."""
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
        """Refuse a batch of another size than the values that this energy is bound to."""
        for name, value in self.bound.items():
            if len(value) != len(x):
                raise UserError(
                    f"{type(self).__name__}: its '{name}' has {len(value)} rows, and the batch has {len(x)}: "
                    f"take the energy's rows(index) for the samples at hand"
                )

    def known(self, x: Tensor, v: Tensor) -> Known | None:
        """Return what the energy within knows of its derivatives."""
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
        """What holds of the energy under any condition is asked of it."""
        return getattr(self.energy, name) if name in FACTS else super().__getattr__(name)

    def forward(self, x: Tensor, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Tensor:
        self.fits(x)
        return self.energy(x, **{**self.shared, **self.bound, **_told(y, sigma)})

    def given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Model:
        told = {**self.shared, **self.bound, **_told(y, sigma)}
        return condition(cast(Model, self.energy), told.get("y"), told.get("sigma"))

    def logits(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Compute -E(x, y) of every label, (B, K), at the levels that are given."""
        self.fits(x)
        held = {**self.shared, **self.bound, **_told(None, sigma)}
        return self.energy.logits(x, **{name: value for name, value in held.items() if name == "sigma"})

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        return score(self.given(sigma=sigma), x, create_graph)
