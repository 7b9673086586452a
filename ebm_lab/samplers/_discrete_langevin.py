"""The discrete Langevin proposal: every site draws its next value on its own, from the gradient at the present point.

    bits:        flip i with probability sigmoid(D_i / 2 - 1 / (2 alpha))
    categories:  x'_i = c with probability ~ exp(D_{c i} / 2 - [c is not x_i] / (2 alpha))

D: the log odds that grad E(x) guesses (core/discrete.py), alpha: the step size. The factor over all sites is a proposal
q(x' | x) whose density is known, so that a Metropolis test can make it exact (dmala). Without it (dula) the law is off
by an amount that falls with alpha.

Ruqi Zhang, Xingchao Liu and Qiang Liu, A Langevin-like Sampler for Discrete Distributions, 2022, algorithm 1,
arXiv:2206.09914. There bits may be -1 and 1, whose squared distance is four times as large, and so is alpha.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from ebm_lab.core.discrete import Draws, Sites, sites_of
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, frozen, gradient_of, per_sample
from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.mcmc import accept
from ebm_lab.samplers._one_change import no_derivative


class Slope(NamedTuple):
    """x: (B, *shape), its energy e: (B,), and the logits (B, *shape) of the proposal: of a flip of each bit, or of each
    category."""

    x: Tensor
    e: Tensor
    logits: Tensor


def proposal_logits(sites: Sites, x: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """Return the logits of the proposal from x, (B, *shape), with the gradient there."""
    penalty = sites.moves(x).view(x.shape).to(x.dtype) / (2 * alpha)
    return sites.guessed_odds(x, grad).view(x.shape) / 2 - penalty


def log_proposal(sites: Sites, now: Slope, x_new: Tensor) -> Tensor:
    """Compute log q(x_new | now.x), (B,)."""
    if sites.one_hot:
        return flat_sum(now.logits.log_softmax(1) * x_new)
    return flat_sum(logsigmoid(torch.where(now.x == x_new, -now.logits, now.logits)))


class DiscreteLangevin(Sampler):
    """`steps` moves of step size alpha = `step_size`, accepted or rejected if `exact`."""

    needs = (Need("energy", "energy"), Need("energy", "score"), Need("dataset", "discrete"))
    exact: bool

    def __init__(self, dataset: Dataset, steps: int, step_size: float) -> None:
        self.sites, self.steps, self.alpha = sites_of(dataset), steps, step_size

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        no_derivative(type(self).__name__, differentiable)
        accepted, moved, draws = [], [], Draws(generator)
        with frozen(energy):
            slope = gradient_of(energy)

            def at(x: Tensor) -> Slope:
                e, grad = slope(x)
                return Slope(x, e, proposal_logits(self.sites, x, grad, self.alpha))

            now = at(x.detach())
            for _ in range(self.steps):
                x_new = self.propose(now, draws)
                new = at(x_new)
                if self.exact:
                    there, back = log_proposal(self.sites, now, x_new), log_proposal(self.sites, new, now.x)
                    yes = accept(now.e - new.e + back - there, generator)
                    accepted.append(yes.float().mean())
                    wide = per_sample(yes, x)
                    new = Slope(
                        *(torch.where(wide if p.ndim > 1 else yes, p, q) for p, q in zip(new, now, strict=True))
                    )
                moved.append((new.x - now.x).abs().mean())
                now = new
        metrics = {"flips": torch.stack(moved).mean() * self.sites.changes / (2 if self.sites.one_hot else 1)}
        if self.exact:
            metrics["acceptance"] = torch.stack(accepted).mean()
        return Chain(now.x, dict(state), metrics, (self.steps + 1) * len(x))

    def propose(self, now: Slope, draws: Draws) -> Tensor:
        """Draw x' from the proposal."""
        if self.sites.one_hot:
            return draws.categories(now.logits)
        return (now.x - draws.bits(now.logits)).abs()
