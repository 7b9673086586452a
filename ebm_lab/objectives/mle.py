"""Maximum likelihood with Markov chains from noise.

    grad L = E_data[ grad_theta E(x) ] - E_{q_k}[ grad_theta E(x_neg) ],    q_k: k sampler steps from noise

Long runs (k large enough to reach the model's law) follow the likelihood's gradient. Short runs (the preset
`mle_short`) train a sampler instead: k steps from noise come to match the data, but the energy is not a log-density.
Its samples are those of exactly k steps, so the preset sets `sample_steps` to the sampler's `steps`.

Erik Nijkamp, Mitch Hill, Song-Chun Zhu and Ying Nian Wu, Learning Non-Convergent Non-Persistent Short-Run MCMC Toward
Energy-Based Model, 2019, arXiv:1904.09770.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 3 to 5, arXiv:2101.03288.
"""

from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Generator, Tensor, nn

from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive


@register("objective", "mle")
class MLE(Contrastive):
    """Train with chains of k steps from noise: k is the sampler's `steps`, the noise the data set's `start`.

    `refresh`: number of independence-Metropolis steps before the sampler's steps, with proposals from that noise. They
    are exact, and give each mode its right mass if noise and model overlap (in few dimensions).
    """

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        *,
        refresh: NonNegativeInt,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)
        self.refresh = refresh

    def negatives(self, x: Tensor) -> Chain:
        return self.advance(self.start.sample(len(x), self.generator), self.refresh)
