"""Metropolis-Hastings with one change of a discrete point, drawn in proportion to weights of all changes.

    q(m | x) = w_m(x) / sum_n w_n(x),    accept x -> x^m with probability min(1, exp(log_ratio))
    log_ratio = E(x) - E(x^m) + log q(m' | x^m) - log q(m | x),    m' the change back

leaves exp(-E) exactly invariant for any weights. With w = g(p(x^m) / p(x)) and g(t) = t g(1 / t) they are locally
balanced: in high dimension nearly all proposals are accepted.

Giacomo Zanella, Informed Proposals for Local MCMC in Discrete Spaces, 2020, arXiv:1711.07424.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.core.discrete import sites_of
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen, per_sample
from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.mcmc import accept


class Place(NamedTuple):
    """x: (B, *shape), its energy e: (B,), and the log weights of its changes, (B, M), carried from step to step."""

    x: Tensor
    e: Tensor
    log_w: Tensor


def no_derivative(name: str, differentiable: bool) -> None:
    """Refuse to differentiate through discrete chains."""
    if differentiable:
        raise UserError(f"sampler '{name}': moves between discrete points have no derivative")


class OneChange(Sampler):
    """`steps` proposals of one change each; subclasses define the weights."""

    needs = (Need("energy", "energy"), Need("dataset", "discrete"))
    offers = frozenset({"stationary", "exact"})

    def __init__(self, dataset: Dataset, steps: int) -> None:
        self.sites, self.steps = sites_of(dataset), steps

    @abstractmethod
    def weigh(self, energy: EnergyFn) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return x -> (E(x), (B,); log weights of its changes, (B, M))."""

    @abstractmethod
    def cost(self) -> int:
        """Return the gradients, or the evaluations that count as such, of each chain at each step."""

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
        accepted = []
        with frozen(energy), torch.no_grad():
            weigh = self.weigh(energy)

            def at(x: Tensor) -> Place:
                e, log_w = weigh(x)
                return Place(x, e, torch.where(self.sites.moves(x), log_w, -torch.inf).log_softmax(1))

            now = at(x.detach())
            for _ in range(self.steps):
                m = draw(now.log_w, generator)
                new = at(self.sites.apply(now.x, m))
                back = self.sites.back(now.x, m)
                yes = accept(now.e - new.e + chosen(new.log_w, back) - chosen(now.log_w, m), generator)
                accepted.append(yes)
                wide = per_sample(yes, now.x)
                now = Place(
                    torch.where(wide, new.x, now.x),
                    torch.where(yes, new.e, now.e),
                    torch.where(yes.unsqueeze(1), new.log_w, now.log_w),
                )
        metrics = {"acceptance": torch.stack(accepted).float().mean()}
        return Chain(now.x, dict(state), metrics, (self.steps + 1) * len(x) * self.cost())


def draw(log_w: Tensor, generator: Generator) -> Tensor:
    """Draw one column in each row of log_w (B, M) from softmax, as the largest with Gumbel noise."""
    return (log_w - torch.empty_like(log_w).exponential_(generator=generator).log()).argmax(1)


def chosen(values: Tensor, m: Tensor) -> Tensor:
    """Return the entry m (B,) of each row of values (B, M)."""
    return values.gather(1, m.unsqueeze(1)).squeeze(1)
