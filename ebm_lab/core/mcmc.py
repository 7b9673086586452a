"""The Metropolis-Hastings test, and the independence sampler's step.

    accept x -> x' with probability min(1, exp(log_ratio)),
    log_ratio = E(x) - E(x') + log q(x | x') - log q(x' | x)

leaves exp(-E) exactly invariant for any proposal q. Samplers build their kernels from `accept`; objectives and
evaluations use `independence_step`, whose proposal does not look at x.

W. K. Hastings, Monte Carlo Sampling Methods Using Markov Chains and Their Applications, 1970.
"""

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, per_sample, stacked
from ebm_lab.core.interfaces import Distribution


def accept(log_ratio: Tensor, generator: Generator) -> Tensor:
    """Draw (B,) booleans, true with probability min(1, exp(log_ratio)), and false if the ratio is nan."""
    u = torch.empty_like(log_ratio).uniform_(generator=generator)
    return u.log() < log_ratio.detach()


@torch.no_grad()
def independence_step(
    energy: EnergyFn, x: Tensor, proposal: Distribution, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Take one independence-Metropolis step for exp(-E) with x' ~ q, whatever x is; returns (x, accepted), (B, *shape)
    and (B,).

    log_ratio = E(x) - E(x') + log q(x) - log q(x'). An accepted proposal is independent of the chain's past.
    """
    new = proposal.sample(len(x), generator)
    e, e_new = stacked(energy, x, new)
    accepted = accept(e - e_new + proposal.log_prob(x) - proposal.log_prob(new), generator)
    return torch.where(per_sample(accepted, x), new, x), accepted
