"""The base class of objectives that follow the likelihood's gradient with Markov chains, wherever the chains begin.

    grad L = E_data[ grad_theta E(x) ] - E_chains[ grad_theta E(x_neg) ]

This is the gradient of the negative log-likelihood if the chains have reached the model's law. The surrogate loss
mean E(x) - mean E(sg x_neg), where sg stops the gradient, has this gradient, but its value is not a likelihood. Each
objective defines where its chains begin.

Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 3, arXiv:2101.03288.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.derived import tempered
from ebm_lab.core.functional import EnergyFn, flat_sum, frozen, stacked
from ebm_lab.core.interfaces import Batch, Chain, Dataset, Loss, Objective, Sampleable, Sampler
from ebm_lab.core.mcmc import independence_step
from ebm_lab.core.random import with_noise
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.start import start_law
from ebm_lab.objectives._data_noise import refuse_noise


def contrast(energy: EnergyFn, x: Tensor, x_neg: Tensor) -> tuple[Tensor, Tensor]:
    """Return (E(x), E(sg x_neg)), (B,) and (B_neg,), from one forward pass."""
    e_pos, e_neg = stacked(energy, x, x_neg.detach())
    return e_pos, e_neg


def run_chains(
    objective: Objective,
    sampler: Sampler,
    energy: EnergyFn,
    x: Tensor,
    generator: Generator,
    differentiable: bool = False,
) -> Chain:
    """Call `sampler` on `energy` from x; the objective keeps its state for the next call, and the first call creates
    it."""
    state = objective.sampler_state or sampler.begin(energy, x, generator)
    chain = sampler(energy, x, state, generator=generator, differentiable=differentiable)
    objective.sampler_state = chain.state
    return chain


class Chained(Objective):
    """An objective with chains. `data_noise`: std of Gaussian noise added to the data, in units of the data's scale."""

    sampler: Sampler

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        data_noise: float,
    ) -> None:
        super().__init__(energy)
        refuse_noise(dataset, data_noise)
        self.sampler, self.start, self.generator = sampler, start_law(dataset, energy), generator
        self._starts_at_base = dataset.start is None and base_of(energy) is not None
        self.data_noise = data_noise * dataset.scale
        self.centre, self.reach = dataset.mean, dataset.scale * dataset.mean.numel() ** 0.5

    def origin(self) -> Sampleable | None:
        return self.start if self._starts_at_base else None

    def distance(self, x: Tensor) -> Tensor:
        """Return the root mean square distance of x from the data's mean, over scale * sqrt(d), 0-d."""
        return flat_sum((x - self.centre) ** 2).mean().sqrt() / self.reach

    def advance(self, x: Tensor, refresh: int = 0, bind: Callable[[Tensor], EnergyFn] | None = None) -> Chain:
        """Advance chains at x by `refresh` independence-Metropolis steps, then by the sampler's steps on the energy
        that `bind` makes for the points where they are then, or on the energy itself.

        The independence steps propose draws of the starting noise and leave the model's law, at the sampler's
        temperature, invariant. The sampler's state is kept for the next call.
        """
        refreshed, law = [], tempered(self.energy, self.sampler.temperature)
        with frozen(self.energy):
            for _ in range(refresh):
                x, accepted = independence_step(law, x, self.start, self.generator)
                refreshed.append(accepted.float().mean())
            energy = self.energy if bind is None else bind(x)
        chain = run_chains(self, self.sampler, energy, x, self.generator)
        return chain._replace(metrics=chain.metrics | ({"refreshed": torch.stack(refreshed).mean()} if refresh else {}))

    def run_sampler(self, sampler: Sampler, x: Tensor, differentiable: bool = False) -> Chain:
        """Call `sampler` from x and keep its state for the next call; the first call creates the state."""
        return run_chains(self, sampler, self.energy, x, self.generator, differentiable)


class Contrastive(Chained):
    """Contrast the energies of data and of chains.

    `data_noise`: std of Gaussian noise added to the data, in units of the data's scale. `energy_l2`: weight of the
    penalty mean(E(x)^2 + E(x_neg)^2), which keeps energies near zero (Du and Mordatch 2019).
    """

    headline = ("gap", "e_pos", "acceptance")

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        data_noise: float,
        energy_l2: float,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise)
        self.energy_l2 = energy_l2

    @abstractmethod
    def negatives(self, x: Tensor) -> Chain:
        """Return the final states of the chains, as many as there are (noisy) data x (B, *shape)."""

    def contrasted(self, y: Tensor | None, x: Tensor, x_neg: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energies of the (noisy) data x, whose labels are y, and of the chains, (B,) each."""
        return contrast(self.energy, x, x_neg)

    def extra(self, chain: Chain) -> Loss | None:
        """Return a further term of the loss; None if there is none."""
        return None

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        chain = self.negatives(x)
        e_pos, e_neg = self.contrasted(batch.y, x, chain.x)
        gap = e_pos.mean() - e_neg.mean()
        loss = gap + self.energy_l2 * (e_pos.square().mean() + e_neg.square().mean()) if self.energy_l2 else gap
        if extra := self.extra(chain):
            loss = loss + extra.value
        metrics = {"loss": loss, "e_pos": e_pos.mean(), "e_neg": e_neg.mean(), "gap": gap}
        metrics["chain_distance"] = self.distance(chain.x)
        metrics = {name: value.detach() for name, value in metrics.items()} | chain.metrics
        if extra:
            metrics |= extra.metrics
        return Loss(loss, metrics, grad_evals=chain.grad_evals + 2 * len(x) + (extra.grad_evals if extra else 0))
