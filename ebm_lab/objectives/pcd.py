"""Persistent contrastive divergence, with a replay buffer.

    grad L = E_data[ grad_theta E(x) ] - E_chains[ grad_theta E(x_neg) ]

the gradient of the negative log-likelihood, with the model's expectation taken over Markov chains that persist from
one parameter update to the next. The surrogate loss mean E(x) - mean E(sg x_neg) has this gradient; its value is no
likelihood. Biased by chains that lag behind the model and by an unadjusted sampler's step. `restart` is the
probability per visit that a chain begins anew from noise, which keeps chains able to find every mode and biases the
negative samples toward short runs.

Tijmen Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008.
Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019 (buffer, restarts, E^2).
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 3 and 6, arXiv:2101.03288.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.buffer import ReplayBuffer
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective, Sampler
from ebm_lab.core.registry import register

Probability = Annotated[float, Field(ge=0, le=1)]


def contrast(energy: EnergyFn, x: Tensor, x_neg: Tensor) -> tuple[Tensor, Tensor]:
    """(E(x), E(sg x_neg)), (B,) and (B_neg,), in one forward pass."""
    e = evaluate(energy, torch.cat([x, x_neg.detach()]))
    return e[: len(x)], e[len(x) :]


@register("objective", "pcd")
class PCD(Objective):
    """Settings: `buffer_size` chains, of which a batch advances per step by the sampler's steps; `restart`, the
    probability per visit of beginning anew from noise; `data_noise`, the std of Gaussian noise added to the data, in
    units of the data's scale; `energy_l2`, the weight of mean(E(x)^2 + E(x_neg)^2), which keeps energies near zero.
    """

    headline = ("gap", "e_pos", "acceptance")

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        batch_size: int,
        *,
        buffer_size: PositiveInt,
        restart: Probability,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        if buffer_size < batch_size:
            raise UserError(f"objective.buffer_size={buffer_size}: must be at least batch_size={batch_size}")
        self.sampler, self.start, self.generator = sampler, dataset.start, generator
        self.restart, self.energy_l2 = restart, energy_l2
        self.data_noise = data_noise * dataset.scale
        self.buffer = ReplayBuffer(self.start.sample(buffer_size, generator))

    def forward(self, batch: Batch) -> Loss:
        x = batch.x
        if self.data_noise:
            x = x + self.data_noise * torch.empty_like(x).normal_(generator=self.generator)
        chain = self._advance(len(x))
        e_pos, e_neg = contrast(self.energy, x, chain.x)
        gap = e_pos.mean() - e_neg.mean()
        loss = gap + self.energy_l2 * (e_pos.square().mean() + e_neg.square().mean()) if self.energy_l2 else gap
        metrics = {"loss": loss, "e_pos": e_pos.mean(), "e_neg": e_neg.mean(), "gap": gap}
        metrics = {name: value.detach() for name, value in metrics.items()} | chain.metrics
        metrics["buffer_age"] = self.buffer.age.float().mean()
        return Loss(loss, metrics, grad_evals=chain.grad_evals + 2 * len(x))

    def _advance(self, n: int):
        slots = self.buffer.draw(n, self.generator)
        fresh = self.start.sample(n, self.generator)
        x = self.buffer.restart(slots, fresh, self.restart, self.generator)
        chain = self.sampler(self.energy, x, self.sampler_state, generator=self.generator)
        self.sampler_state = chain.state
        self.buffer.put(slots, chain.x, self.sampler.steps)
        return chain

    def chains(self) -> Tensor:
        return self.buffer.x
