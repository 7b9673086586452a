"""Train an energy by any f-divergence, with a critic that learns the ratio of data to model.

    D_f(p, p_theta) = E_theta[ f(r) ],    r = p / p_theta,    r = e^h with a critic h
    critic:  max_h  E_p[ f'(e^h) ] - E_theta[ e^h f'(e^h) - f(e^h) ]
    energy:  grad D_f = Cov_theta( r f'(r) - f(r), grad_theta E(x) )

The critic's optimum is h = log p / p_theta, its value there D_f. Expectations under the model come from persistent
chains, and data enter only by the critic. For KL the gradient is the likelihood's; other divergences weigh the places
that the model misses, or those that it invents, more or less. The minimiser is the data's law for each.

| divergence  | f(r)                                | f'(e^h)                | r f'(r) - f(r)    |
|---|---|---|---|
| kl          | r log r                             | h + 1                  | e^h               |
| reverse_kl  | -log r                              | -e^-h                  | h - 1             |
| js          | r log r - (r + 1) log((r + 1) / 2)  | log 2 + log sigmoid(h) | softplus(h) - log 2 |
| hellinger   | (sqrt r - 1)^2                      | 1 - e^(-h / 2)         | e^(h / 2) - 1     |
| chi2        | (r - 1)^2                           | 2 (e^h - 1)            | e^2h - 1          |

This JS is twice the Jensen-Shannon divergence. h is kept within (-5, 5) by h = 5 tanh(. / 5), where Yu et al. clip it.

With `adds_energy` the critic is a network c added to the energy, h = c(x) + E(x) - mean E, where E counts as fixed and
its mean is that over some fixed training points. The optimum is c = log p + constant, which stays where it is while the
energy moves; a network alone has to follow each step of the energy.

Lantao Yu, Yang Song, Jiaming Song and Stefano Ermon, Training Deep Energy-Based Models with f-Divergence Minimization,
2020, theorem 1, arXiv:2003.03463.
"""

import math
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Batch, Chain, Dataset, Loss, Sampler
from ebm_lab.core.learnt import RatioCritic
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset, with_noise
from ebm_lab.core.registry import register
from ebm_lab.models.players import Critic
from ebm_lab.objectives._contrastive import Chained, contrast
from ebm_lab.objectives._replay_buffer import new_buffer

Divergence = Literal["kl", "reverse_kl", "js", "hellinger", "chi2"]
MOST = 5.0
"""Bound of |h|."""
FIXED = 32
"""Training points whose mean energy is taken off where the critic adds the energy."""


def slope(divergence: Divergence, h: Tensor) -> Tensor:
    """Compute f'(e^h)."""
    if divergence == "kl":
        return h + 1
    if divergence == "reverse_kl":
        return -(-h).exp()
    if divergence == "js":
        return math.log(2) + logsigmoid(h)
    return 2 * h.expm1() if divergence == "chi2" else -(-0.5 * h).expm1()


def conjugate(divergence: Divergence, h: Tensor) -> Tensor:
    """Compute r f'(r) - f(r) at r = e^h, which is the convex conjugate of f at f'(r)."""
    if divergence == "kl":
        return h.exp()
    if divergence == "reverse_kl":
        return h - 1
    if divergence == "js":
        return softplus(h) - math.log(2)
    return (2 * h).expm1() if divergence == "chi2" else (0.5 * h).expm1()


def covariance(a: Tensor, b: Tensor) -> Tensor:
    """Return one unbiased estimate of Cov(a, b) per pair of independent draws, 1/2 (a - a') (b - b'), (B // 2,).

    A mean over pairs may be split between processes, which a covariance over the batch may not.
    """
    n = len(a) // 2
    one, other = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
    return 0.5 * (a[one] - a[other]) * (b[one] - b[other])


@register("objective", "f_ebm")
class FEBM(Chained):
    """Minimise an f-divergence with persistent chains; critic and energy move together.

    `divergence`: f. `hidden`: widths of the critic's hidden layers. `adds_energy`: the critic is its network plus the
    energy, else the network alone. `buffer_size`: number of chains. `refresh`: number of independence-Metropolis steps
    per visit, with proposals from the starting noise. `data_noise`: std of Gaussian noise added to the data, in units
    of the data's scale.
    """

    metrics = (Metric("loss_critic", good="lower"), Metric("divergence", meaning="the critic's estimate of D_f"))
    headline = ("divergence", "loss_critic", "gap", "lr", "lr_critic")
    rows = ("buffer.x", "buffer.age")
    fixed: Tensor

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        batch_size: int,
        *,
        divergence: Divergence,
        hidden: list[PositiveInt],
        adds_energy: bool,
        buffer_size: PositiveInt,
        refresh: NonNegativeInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise)
        self.divergence: Divergence = divergence
        self.refresh, self.adds_energy = refresh, adds_energy
        self.critic = Critic(dataset, generator, hidden, 1)
        self.register_buffer("fixed", subset(dataset.train, FIXED).clone(), persistent=False)
        self.buffer = new_buffer(self.start, buffer_size, batch_size, generator)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": list(self.energy.parameters()), "critic": list(self.critic.parameters())}

    def learnt_critic(self) -> RatioCritic:
        return RatioCritic(self.ratio, MOST)

    def ratio(self, x: Tensor) -> Tensor:
        """Compute the critic's log-ratio of data to model, (B, *shape) -> (B,)."""
        return self.h(x, evaluate(self.energy, x))

    def h(self, x: Tensor, e: Tensor) -> Tensor:
        """Compute the critic's log-ratio at x (B, *shape), whose energies are e (B,), -> (B,)."""
        h = self.critic(x).squeeze(1)
        if self.adds_energy:
            h = h + (e - evaluate(self.energy, self.fixed).mean()).detach()
        return MOST * torch.tanh(h / MOST)

    def negatives(self, n: int) -> Chain:
        """Advance n chains of the buffer."""
        slots = self.buffer.draw(n, self.generator)
        chain = self.advance(self.buffer.x[slots], self.refresh)
        self.buffer.put(slots, chain.x, self.sampler.steps)
        return chain

    def chains(self) -> Tensor:
        return self.buffer.x

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        chain = self.negatives(len(x))
        e_pos, e_neg = contrast(self.energy, x, chain.x)
        h, h_neg = self.h(torch.cat([x, chain.x]), torch.cat([e_pos, e_neg])).split(len(x))
        found = slope(self.divergence, h).mean() - conjugate(self.divergence, h_neg).mean()
        loss = covariance(conjugate(self.divergence, h_neg.detach()), e_neg).mean()
        metrics = {"loss": loss, "loss_critic": -found, "divergence": found, "gap": e_pos.mean() - e_neg.mean()}
        metrics["chain_distance"] = self.distance(chain.x)
        metrics = {name: value.detach() for name, value in metrics.items()} | chain.metrics
        return Loss(loss - found, metrics, grad_evals=chain.grad_evals + len(x))
