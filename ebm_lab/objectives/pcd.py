"""Persistent contrastive divergence, with a replay buffer.

    grad L = E_data[ grad_theta E(x) ] - E_chains[ grad_theta E(x_neg) ]

The chains persist from one parameter update to the next. The gradient is biased because chains lag behind the model,
and by the step of an unadjusted sampler. `restart` is the probability per visit that a chain begins anew from noise,
which lets chains find every mode, but biases the negative samples towards short runs. `refresh` independence-Metropolis
steps per visit do the same without bias if noise and model overlap (in few dimensions), because each step is exact.

Tijmen Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008.
Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019 (buffer, restarts, E^2).
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 3 and 6, arXiv:2101.03288.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive
from ebm_lab.objectives._replay_buffer import new_buffer

Probability = Annotated[float, Field(ge=0, le=1)]


@register("objective", "pcd")
class PCD(Contrastive):
    """Train with persistent chains, of which a batch advances by the sampler's steps at each training step.

    `buffer_size`: number of chains. `restart`: probability per visit that a chain begins anew from noise. `refresh`:
    number of independence-Metropolis steps per visit, with proposals from that noise.
    """

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
        self.restart, self.refresh = restart, refresh
        self.buffer = new_buffer(self.start, buffer_size, batch_size, generator)

    def negatives(self, x: Tensor) -> Chain:
        slots = self.buffer.draw(len(x), self.generator)
        fresh = self.start.sample(len(x), self.generator)
        x = self.buffer.restart(slots, fresh, self.restart, self.generator)
        chain = self.advance(x, self.refresh)
        self.buffer.put(slots, chain.x, self.sampler.steps)
        return chain._replace(metrics=chain.metrics | {"buffer_age": self.buffer.age.float().mean()})

    def chains(self) -> Tensor:
        return self.buffer.x
