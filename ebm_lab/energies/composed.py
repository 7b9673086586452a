"""The energy that trained runs make together, as the start of a run.

    product, negation:  E(x) = sum_i w_i E_i(x)
    mixture:            E(x) = -log sum_i w_i exp(-E_i(x)) / Z_i,    sum_i w_i = 1

Its parameters are those of all runs, so that any objective trains it on, from the composition as it is; with steps=0 it
is evaluated and sampled as it is. The runs are read whenever the energy is built, and must stay where they are.

Geoffrey E. Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002 (trained products).
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ebm_lab.core.composed import Op
from ebm_lab.core.functional import GradientFn, KnowsDerivatives, gradient_of
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register

Compose = Callable[[Dataset, list[str], Op, list[float] | None], tuple[KnowsDerivatives, list[str]]]
"""(dataset, runs, op, weights) -> their energy in the data set's coordinates, and notes for the user."""


@register("energy", "composed")
class ComposedRuns(Energy):
    """`runs`: directories of trained runs on data of the same shape. `op`: product, mixture, or negation, a product
    with negative weights. `weights`: one for each run; null: 1 each, and for a mixture equal."""

    def __init__(
        self,
        dataset: Dataset,
        compose: Compose,
        *,
        runs: Annotated[list[Place], Field(min_length=2)],
        op: Op,
        weights: list[float] | None,
    ) -> None:
        super().__init__()
        self.model, self.notes = compose(dataset, runs, op, weights)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def gradient(self) -> GradientFn | None:
        return gradient_of(self.model)

    def derivatives(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        return self.model.derivatives(x, v)
