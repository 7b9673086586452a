"""Contrastive divergence, CD-k.

    grad L = E_data[ grad_theta E(x) ] - E_{q_k}[ grad_theta E(x_neg) ],    q_k: k sampler steps FROM THE DATA

Follows the gradient of KL(p || p_theta) - KL(q_k || p_theta) up to a neglected term. Chains that begin at the data are
near the model's law at once, so few steps do; regions far from the data are never visited, so a mode where there is no
data goes unseen. With an unadjusted sampler its fixed point is off (for a Gaussian of variance s,
(2 / eps^2)(1 - sqrt(1 - eps^2 / s)) instead of 1 / s); with MALA or HMC it is the likelihood's.

Geoffrey E. Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002, equation 5.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, section 3, arXiv:2101.03288.
"""

from pydantic import NonNegativeFloat
from torch import Generator, Tensor, nn

from ebm_lab.core.contrastive import Contrastive
from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.registry import register


@register("objective", "cd")
class CD(Contrastive):
    """k is the sampler's `steps`. `data_noise` and `energy_l2` as in core/contrastive.py; the chains begin at the noisy
    data."""

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        *,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)

    def negatives(self, x: Tensor) -> Chain:
        return self.advance(x)
