"""Contrastive divergence, CD-k.

    grad L = E_data[ grad_theta E(x) ] - E_{q_k}[ grad_theta E(x_neg) ],    q_k: k sampler steps FROM THE DATA

This is the gradient of KL(p || p_theta) - KL(q_k || p_theta) up to a neglected term. Chains that begin at the data are
near the model's law from the start, so few steps suffice; but they never visit regions far from the data, so a mode of
the model without data goes unnoticed. With an unadjusted sampler the fixed point is biased (for a Gaussian of variance
s it is (2 / eps^2)(1 - sqrt(1 - eps^2 / s)) instead of 1 / s); with MALA or HMC it is the likelihood's.

The neglected term is that q_k depends on theta too:

    grad_theta [ KL(p || p_theta) - KL(q_k || p_theta) ]  =  grad L - grad_theta KL(q_k || p_sg(theta)),
    KL(q_k || p_sg(theta)) = E_{q_k}[ E_sg(theta)(x) ] - H(q_k) + const

which is computed by differentiating through the chains. `neglected_term` multiplies it: 1 is the exact gradient, 0 is
CD. The published code adds + KL(q_k || p_sg(theta)), which is -1 here: to leading order this cancels grad L instead of
correcting it. For a Gaussian (E = a x^2 / 2, a = 0.9; data of variance 1.7; Langevin, eps = 0.5, k = 1) the exact
gradient in a is 0.1065 = 0.0555 + 0.0510, and -1 leaves 0.0044; for k = 1 and eps -> 0, exact / grad L -> 2, so that -1
leaves nothing.

Geoffrey E. Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002, equation 5.
Yilun Du, Shuang Li, Joshua Tenenbaum and Igor Mordatch, Improved Contrastive Divergence Training of Energy Based
Models, 2020, arXiv:2012.01316.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, section 3, arXiv:2101.03288.
"""

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, evaluate, frozen
from ebm_lab.core.interfaces import Chain, Dataset, Loss, Sampler
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive
from ebm_lab.statistics.entropy import nearest_neighbour_entropy


def chain_divergence(energy: EnergyFn, x_neg: Tensor, entropy: Tensor) -> Tensor:
    """Return E_sg(theta)(x_neg) - H, (B,), whose mean is KL(q_k || p_sg(theta)) - log Z.

    Chains x_neg (B, *shape) and entropies (B,) or 0-d are differentiable in theta.
    """
    with frozen(energy):
        return evaluate(energy, x_neg) - entropy


@register("objective", "cd")
class CD(Contrastive):
    """Train with chains of k steps from the (noisy) data; k is the sampler's `steps`.

    `neglected_term`: signed coefficient of the neglected term, 0 to leave it out. It needs a sampler without an
    accept-reject step, whose dependence on theta has no derivative along the chain. `neglected_steps`: only this number
    of last steps is differentiated through (null: all); fewer steps bias the term and save memory and time.
    `neglected_entropy`: weight of H within the term; 1 is exact. H is estimated by nearest neighbours in the batch, and
    its noise has no finite variance in fewer than three dimensions. The published code has -1, 1 and 0.3 / D for D
    dimensions, with neighbours among earlier chains.
    """

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        *,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
        neglected_term: float,
        neglected_steps: PositiveInt | None,
        neglected_entropy: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)
        self.neglected_term, self.neglected_entropy = neglected_term, neglected_entropy
        self.neglected_steps = neglected_steps or sampler.steps
        if not neglected_term:
            return
        if neglected_entropy:
            self.not_separable = "objective.neglected_entropy measures distances between all chains of a batch"
        if self.neglected_steps > sampler.steps:
            raise UserError(
                f"objective.neglected_steps={neglected_steps}: the sampler takes only {sampler.steps} steps"
            )

    @classmethod
    def needs_of(cls, *, neglected_term: float = 0.0, **settings: Any) -> Iterable[Need]:
        needed = [("energy", "smooth"), ("sampler", "reparameterised")] if neglected_term else []
        setting = f"objective.neglected_term={neglected_term:g}"
        return (*super().needs_of(**settings), *[Need(role, feature, setting) for role, feature in needed])

    def negatives(self, x: Tensor) -> Chain:
        if not self.neglected_term:
            return self.advance(x)
        k, metrics, evals = self.sampler.steps, {}, 0
        if self.neglected_steps < k:
            x, _, metrics, evals = self._steps(x, k - self.neglected_steps, False)
        chain = self._steps(x, self.neglected_steps, True)
        return chain._replace(metrics=metrics | chain.metrics, grad_evals=evals + chain.grad_evals)

    def _steps(self, x: Tensor, steps: int, differentiable: bool) -> Chain:
        sampler = copy.copy(self.sampler)
        sampler.steps = steps
        return self.run_sampler(sampler, x, differentiable)

    def extra(self, chain: Chain) -> Loss | None:
        if not self.neglected_term:
            return None
        entropy = nearest_neighbour_entropy(chain.x)
        divergence = chain_divergence(self.energy, chain.x, self.neglected_entropy * entropy).mean()
        metrics = {"chain_entropy": entropy.detach().mean(), "chain_divergence": divergence.detach()}
        # One gradient of the energy at the end of each chain, and a second derivative at each step along it.
        return Loss(-self.neglected_term * divergence, metrics, len(chain.x) * (1 + self.neglected_steps))
