"""Persistent contrastive divergence, with a replay buffer.

    grad L = E_data[ grad_theta E(x) ] - E_chains[ grad_theta E(x_neg) ]

with chains that persist from one parameter update to the next. Biased by chains that lag behind the model and by an
unadjusted sampler's step. `restart` is the probability per visit that a chain begins anew from noise, which keeps
chains able to find every mode and biases the negative samples toward short runs. `refresh` independence-Metropolis
proposals per visit do the same without bias, where noise and model overlap (few dimensions): each is an exact step.

Tijmen Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008.
Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019 (buffer, restarts, E^2).
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 3 and 6, arXiv:2101.03288.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive
from ebm_lab.objectives._replay_buffer import ReplayBuffer

Probability = Annotated[float, Field(ge=0, le=1)]


@register("objective", "pcd")
class PCD(Contrastive):
    """Settings: `buffer_size` chains, of which a batch advances per step by the sampler's steps; `restart`, the
    probability per visit of beginning anew from noise; `refresh`, independence-Metropolis proposals from that noise per
    visit; `data_noise` and `energy_l2` as in _contrastive.py."""

    rows = ("buffer.x", "buffer.age")

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
        refresh: NonNegativeInt,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)
        if buffer_size < batch_size:
            raise UserError(f"objective.buffer_size={buffer_size}: must be at least batch_size={batch_size}")
        self.restart, self.refresh = restart, refresh
        self.buffer = ReplayBuffer(self.start.sample(buffer_size, generator))

    def negatives(self, x: Tensor) -> Chain:
        slots = self.buffer.draw(len(x), self.generator)
        fresh = self.start.sample(len(x), self.generator)
        x = self.buffer.restart(slots, fresh, self.restart, self.generator)
        chain = self.advance(x, self.refresh)
        self.buffer.put(slots, chain.x, self.sampler.steps)
        return chain._replace(metrics=chain.metrics | {"buffer_age": self.buffer.age.float().mean()})

    def chains(self) -> Tensor:
        return self.buffer.x
