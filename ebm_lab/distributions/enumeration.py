"""Exact sums over all points of a small discrete space.

    log Z = log sum_x exp(-E(x)),    log q(x) = -E(x) - log Z
    KL(p || q) = sum_x p(x) (log p(x) - log q(x)),    in nats, infinite where q has no mass and p has
    E_q[f] = sum_x q(x) f(x)

The energies are computed in the model's own precision, some ten thousand points at a time; the sums are in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ebm_lab.core.discrete import Sites, known_sites
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.table import MOST


def few_states(dataset: Dataset) -> Sites | None:
    """Return the space of discrete data if it has at most MOST points, 2^20; else None."""
    sites = known_sites(dataset)
    return sites if sites is not None and sites.states <= MOST else None


@torch.no_grad()
def at_all(f: Callable[[Tensor], Tensor], sites: Sites, like: Tensor) -> Tensor:
    """Compute f, (n, *shape) -> (n,), at all points in the order of `Sites.every`: (states,) in float64 on the CPU.
    `like`: a tensor with the dtype and on the device that f takes."""
    return torch.cat([f(x).double().cpu() for x in sites.every(like)])


def energies(energy: EnergyFn, sites: Sites, like: Tensor) -> Tensor:
    """Compute E at all points, (states,) in float64 on the CPU."""
    return at_all(lambda x: evaluate(energy, x), sites, like)


def log_z_of(e: Tensor) -> float:
    """Return log Z in nats from the energies of all points, (states,)."""
    return float((-e).logsumexp(0))


def divergence(log_p: Tensor, log_q: Tensor) -> float:
    """Return KL(p || q) in nats from the log probabilities of all points, (states,) each."""
    return float(torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum())


@torch.no_grad()
def expectation(f: Callable[[Tensor], Tensor], log_q: Tensor, sites: Sites, like: Tensor) -> Tensor:
    """Return sum_x q(x) f(x), (k,) in float64 on the CPU, for f (n, *shape) -> (n, k) and log q at all points,
    (states,)."""
    first, total = 0, torch.zeros((), dtype=torch.float64)
    for x in sites.every(like):
        total = total + log_q[first : first + len(x)].exp() @ f(x).double().cpu()
        first += len(x)
    return total
