"""Swaps between replicas at different temperatures, as parallel tempering makes them.

    x_r <-> x_(r+1) with probability min(1, exp((1 / T_r - 1 / T_(r+1)) (E(x_r) - E(x_(r+1)))))

leaves the product of exp(-E(x_r) / T_r) invariant. Pairs (1, 2), (3, 4), .. and (2, 3), (4, 5), .. take turns.

Robert H. Swendsen and Jian-Sheng Wang, Replica Monte Carlo Simulation of Spin-Glasses, 1986.
"""

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError


def ladder(top: float, replicas: int, like: Tensor) -> Tensor:
    """Return temperatures that rise geometrically from 1 to `top`, (R,), of the type and on the device of `like`: made
    there, so that nothing is copied between devices."""
    return (top ** torch.linspace(0, 1, replicas, dtype=torch.float64, device=like.device)).to(like.dtype)


def swap_log_ratio(e: Tensor, t: Tensor) -> Tensor:
    """Compute the log ratios (R - 1, B) of swapping each replica with the next; energies e (R, B), temperatures t
    (R,)."""
    beta = (1 / t).view(-1, 1)
    return (beta[:-1] - beta[1:]) * (e[:-1] - e[1:])


def swapped(accepted: Tensor) -> Tensor:
    """Return the replica that each place takes its state from, (R, B), after the accepted swaps (R - 1, B), which share
    no replica."""
    step, none = accepted.long(), torch.zeros_like(accepted[:1], dtype=torch.int64)
    places = torch.arange(len(accepted) + 1, device=accepted.device).view(-1, 1)
    return places + torch.cat([step, none]) - torch.cat([none, step])


def climbed(was_hot: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the marks of the replicas that have been at the top since they were at the bottom, (R, B), along with their
    states. Return the new marks, and which chains' replicas have now come back to the bottom, (B,)."""
    moved = was_hot.gather(0, source)
    return torch.cat([torch.zeros_like(moved[:1]), moved[1:-1], torch.ones_like(moved[:1])]), moved[0]


def check_values(held: Tensor | None, given: Tensor | None, who: str) -> None:
    """Refuse to go on where the energy is bound to other values, (B, k) or None, than those that the hot replicas have
    come by."""
    same = held is given if held is None or given is None else torch.equal(held, given)
    if not same:
        raise UserError(
            f"sampler '{who}': its hot replicas keep to the labels, noise levels or anchors of the call before, and "
            "this call has others: choose another sampler, or give each chain the same ones at every call"
        )
