"""The Metropolis-Hastings test, and the independence sampler's step.

    accept x -> x' with probability min(1, exp(log_ratio)),
    log_ratio = E(x) - E(x') + log q(x | x') - log q(x' | x)

leaves exp(-E) exactly invariant for any proposal q. Samplers build their kernels from `accept`; objectives and
evaluations use `independence_step`, whose proposal does not look at x.

Two chains are coupled if each moves by its own law and both use the same random numbers, so that they can meet, and
stay together from then on: they propose the same point wherever they can (`coupled_normals`), and accept by one u.

W. K. Hastings, Monte Carlo Sampling Methods Using Markov Chains and Their Applications, 1970. Pierre E. Jacob, John
O'Leary and Yves F. Atchade, Unbiased Markov Chain Monte Carlo Methods with Couplings, 2020,
arXiv:1708.03625 (coupled chains).
"""

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, flat_sum, per_sample, stacked
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


@torch.no_grad()
def coupled_independence_steps(
    energy: EnergyFn, x: Tensor, y: Tensor, proposal: Distribution, steps: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Take `steps` independence steps of two coupled chains at x and y (B, *shape), each with one proposal for both:
    both take it, and meet, with the lower of their two acceptances."""
    new = proposal.sample(steps * len(x), generator)
    e_x, e_y, e_new = stacked(energy, x, y, new)
    log_u = torch.empty_like(e_new).uniform_(generator=generator).log()
    now = [[x, e_x + proposal.log_prob(x)], [y, e_y + proposal.log_prob(y)]]
    surplus = (e_new + proposal.log_prob(new)).split(len(x))  # log q - log p, but for a constant
    for z, at_z, log_u_z in zip(new.split(len(x)), surplus, log_u.split(len(x)), strict=True):
        moves = [log_u_z < at - at_z for _, at in now]
        now = [
            [torch.where(per_sample(move, z), z, point), torch.where(move, at_z, at)]
            for move, (point, at) in zip(moves, now, strict=True)
        ]
    return now[0][0], now[1][0]


def coupled_normals(x: Tensor, y: Tensor, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from N(x, I) and N(y, I), equal as often as can be, from standard normal z and uniform u (B,); x, y, z and
    the draws are (B, *shape).

    The first is x + z. With a = x - y, the second is the same point where u < N(z + a; 0, I) / N(z; 0, I), and else y
    plus z reflected at the hyperplane between x and y, z - 2 (e . z) e, e = a / |a|.
    """
    a, new = x - y, x + z
    meets = u.log() < 0.5 * (flat_sum(z * z) - flat_sum((z + a) ** 2))
    e = a / per_sample(flat_sum(a * a).sqrt().clamp_min(torch.finfo(a.dtype).tiny), a)
    return new, torch.where(per_sample(meets, a), new, y + z - 2 * per_sample(flat_sum(e * z), e) * e)


def log_acceptance(
    e: Tensor, grad: Tensor, x: Tensor, e_new: Tensor, grad_new: Tensor, x_new: Tensor, eps: Tensor | float
) -> Tensor:
    """Compute log of the Metropolis-Hastings ratio of the move x -> x_new, (B,), for noise_scale 1 and the law exp(-e).

    `grad` and `grad_new` are the drifts of the proposals, which need not be gradients of e.

    For noise_scale nu and the law exp(-e / nu^2) divide it by nu^2, as the energies and the exponents of both proposals
    are.
    """
    half = eps**2 / 2
    back = flat_sum((x - x_new + half * grad_new) ** 2)
    there = flat_sum((x_new - x + half * grad) ** 2)
    return e - e_new - (back - there) / (4 * half)
