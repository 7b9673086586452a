"""Persistent contrastive divergence, with a replay buffer.

    grad L = E_data[ grad_theta E(x) ] - E_chains[ grad_theta E(x_neg) ]

The chains persist from one parameter update to the next. The gradient is biased because chains lag behind the model,
and by the step of an unadjusted sampler. `restart` is the probability per visit that a chain begins anew from noise,
which lets chains find every mode, but biases the negative samples towards short runs. `refresh` independence-Metropolis
steps per visit do the same without bias if noise and model overlap (in few dimensions), because each step is exact.

With `conditional` the joint energy E(x, y) of points and their labels is trained, and each chain carries a label. A
visit draws y from p(y | x) = softmax_y(-E(x, y)), and then moves x at that y. Both leave exp(-E(x, y)) invariant, so
that the weights of the classes are learnt too, as they are not by chains whose labels stay as they began. A point
without a label enters by the marginal E(x).

Tijmen Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008.
Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019 (buffer, restarts, E^2).
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 3 and 6, arXiv:2101.03288.
"""

from typing import Annotated, Any, cast

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Batch, Chain, Dataset, Energy, Sampler
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive
from ebm_lab.objectives._replay_buffer import new_buffer

Probability = Annotated[float, Field(ge=0, le=1)]


@register("objective", "pcd")
class PCD(Contrastive):
    """Train with persistent chains, of which a batch advances by the sampler's steps at each training step.

    `buffer_size`: number of chains. `restart`: probability per visit that a chain begins anew from noise. `refresh`:
    number of independence-Metropolis steps per visit, with proposals from that noise. `conditional`: whether data and
    chains enter with their labels.
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
        conditional: bool,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)
        self.restart, self.refresh, self.conditional = restart, refresh, conditional
        self.buffer = new_buffer(self.start, buffer_size, batch_size, generator)
        if conditional:
            zeros = torch.zeros(buffer_size, dtype=torch.int64, device=self.buffer.x.device)
            self.buffer.register_buffer("y", zeros)
            self.rows = (*self.rows, "buffer.y")
            self._y = zeros[:batch_size]
        given = dataset.given_labels
        self._some_unlabelled = given is not None and bool((given < 0).any())

    @classmethod
    def needs_of(cls, *, conditional: bool = False, **settings: Any) -> tuple[Need, ...]:
        asks = "objective.conditional=true"
        own = (Need("energy", "labels", asks), Need("dataset", "classes", asks)) if conditional else ()
        return (*super().needs_of(**settings), *own)

    def negatives(self, x: Tensor) -> Chain:
        slots = self.buffer.draw(len(x), self.generator)
        fresh = self.start.sample(len(x), self.generator)
        x = self.buffer.restart(slots, fresh, self.restart, self.generator)
        chain = self.advance(x, self.refresh, self._at_drawn_labels if self.conditional else None)
        self.buffer.put(slots, chain.x, self.sampler.steps)
        if self.conditional:
            cast(Tensor, self.buffer.y)[slots] = self._y
        return chain._replace(metrics=chain.metrics | {"buffer_age": self.buffer.age.float().mean()})

    def _at_drawn_labels(self, x: Tensor) -> EnergyFn:
        """Draw the chains' labels y from p(y | x), and return E(., y)."""
        energy = cast(Energy, self.energy)
        self._y = draw_labels(energy.logits(x), self.generator)
        return energy.given(y=self._y)

    def contrasted(self, y: Tensor | None, x: Tensor, x_neg: Tensor) -> tuple[Tensor, Tensor]:
        if not self.conditional:
            return super().contrasted(y, x, x_neg)
        energy, y = cast(Energy, self.energy), cast(Tensor, y)
        if self._some_unlabelled:
            logits = energy.logits(torch.cat([x, x_neg.detach()]))
            e_pos, e_neg = joint_energy(logits, torch.cat([y, self._y])).split(len(x))
            return e_pos, e_neg
        both = energy.given(y=torch.cat([y, self._y]))
        e_pos, e_neg = evaluate(both, torch.cat([x, x_neg.detach()])).split(len(x))
        return e_pos, e_neg

    def beyond_density(self, batch: Batch) -> Tensor | None:
        if not self.conditional or self._some_unlabelled:
            return None
        return cross_entropy(cast(Energy, self.energy).logits(batch.x), cast(Tensor, batch.y))

    def chains(self) -> Tensor | Batch:
        return Batch(self.buffer.x, cast(Tensor, self.buffer.y)) if self.conditional else self.buffer.x


def draw_labels(logits: Tensor, generator: Generator) -> Tensor:
    """Draw labels from softmax(logits), (B, K) -> (B,), as the largest of the logits with Gumbel noise."""
    u = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - u.log()).argmax(1)


def joint_energy(logits: Tensor, y: Tensor) -> Tensor:
    """Return E(x, y), (B,), from logits (B, K) and labels y (B,); the marginal E(x) where y is negative."""
    own = logits.gather(1, y.clamp_min(0).unsqueeze(1)).squeeze(1)
    return -torch.where(y < 0, logits.logsumexp(1), own)
