"""Unbiased contrastive divergence: CD plus a correction from coupled chains, which follows the likelihood exactly.

    grad L = E_data[ grad_theta E(x) ] - E[ H ]
    H = f(X_k) + sum_{t = k+1}^{tau - 1} [ f(X_t) - f(Y_{t-1}) ],    f = grad_theta E
    tau = inf{ t >= 1: X_t = Y_{t-1} }

X_0 = Y_0 is a datum, X_1 comes from X_0 by one move of a kernel K that keeps the model's law, and (X_{t+1}, Y_t) from
(X_t, Y_{t-1}) by a coupling of K with itself: X and Y each move by K, Y one move behind, and once they have met they
stay together. E f(X_t) = E f(Y_t), so that the sum telescopes to lim E f(X_t) = E_model f, whatever k is, as long as
the meeting time tau has moments. k = 1 is CD-1 plus the correction; a larger k has less variance. The likelihood is
thus followed without waiting for chains to forget the data.

One move of K is `refresh` independence-Metropolis steps, with one proposal for both chains, and the sampler's steps,
whose proposals are maximally coupled (core/mcmc.py). The independence steps let chains meet from any two modes in few
dimensions. Chains that have not met after `max_moves` moves are cut off, which brings a bias back; the metric `unmet`
is their share, and must be near 0.

Yixuan Qiu, Lingsong Zhang and Xiao Wang, Unbiased Contrastive Divergence Algorithm for Training Energy-Based Latent
Variable Models, 2020 (there for restricted Boltzmann machines).
Pierre E. Jacob, John O'Leary and Yves F. Atchade, Unbiased Markov Chain Monte Carlo Methods with Couplings, 2020,
arXiv:1708.03625.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.derived import tempered
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen, per_sample, stacked
from ebm_lab.core.interfaces import Chain, Dataset, Loss, Sampler
from ebm_lab.core.learnt import Coupling
from ebm_lab.core.mcmc import coupled_independence_steps
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.objectives._contrastive import Contrastive


def coupling_correction(energy: EnergyFn, x: Tensor, y: Tensor, apart: Tensor) -> Tensor:
    """Return sum_t [E(X_t) - E(Y_{t-1})] over the moves at which chains are apart, (B,).

    x and y hold the chains at each move, (T, B, *shape), and apart is true where the term counts, (T, B).
    """
    e_x, e_y = (e.view(apart.shape) for e in stacked(energy, x.flatten(0, 1), y.flatten(0, 1)))
    return torch.where(apart, e_x - e_y, 0.0).sum(0)


@register("objective", "unbiased_cd")
class UnbiasedCD(Contrastive):
    """Train with pairs of coupled chains from the (noisy) data, one pair per datum.

    `burn_in`: k, the move whose state CD would use. `max_moves`: moves after which chains are cut off. `refresh`:
    independence steps in each move, with proposals from the noise at which chains begin elsewhere.
    """

    headline = ("gap", "meeting_time", "unmet")
    metrics = (
        *Contrastive.metrics,
        Metric("meeting_time", "meeting time", "moves", "lower", "after which coupled chains are at the same point."),
        Metric("unmet", "unmet chains", "", "lower", "share of pairs of coupled chains that were cut off."),
    )
    needs_float32 = "accepts or rejects the moves of its chains"

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        *,
        burn_in: PositiveInt,
        max_moves: PositiveInt,
        refresh: NonNegativeInt,
        data_noise: NonNegativeFloat,
        energy_l2: NonNegativeFloat,
    ) -> None:
        super().__init__(energy, sampler, dataset, generator, data_noise, energy_l2)
        if max_moves <= burn_in:
            raise UserError(f"objective.max_moves={max_moves}: must be more than objective.burn_in={burn_in}")
        self.burn_in, self.max_moves, self.refresh = burn_in, max_moves, refresh
        self._pairs: tuple[Tensor, Tensor, Tensor] | None = None
        """X_t, Y_{t-1} and whether they are apart, for t = k + 1 ... of the present step."""

    @classmethod
    def needs_of(cls, **settings: Any) -> Iterable[Need]:
        return (*super().needs_of(**settings), Need("sampler", "exact"), Need("sampler", "coupled"))

    def move(self, x: Tensor, y: Tensor, state: dict[str, Tensor], generator: Generator) -> tuple[Chain, Tensor]:
        """Take one move of K by both of two coupled chains, (B, *shape) each."""
        if self.refresh:
            law = tempered(self.energy, self.sampler.temperature)
            with frozen(self.energy):
                x, y = coupled_independence_steps(law, x, y, self.start, self.refresh, generator)
        return self.sampler.couple(self.energy, x, y, state, generator=generator)

    def pairs(
        self, x: Tensor, state: dict[str, Tensor], moves: int, generator: Generator
    ) -> Iterator[tuple[Chain, Tensor, Tensor]]:
        """Yield the chain that is at X_t, Y_{t-1}, and which of the two are apart, (B,), for t = 1 ... moves, of pairs
        that begin at x (B, *shape)."""
        chain, _ = self.move(x, x, state, generator)
        behind, met = x, together(chain.x, x)
        yield chain, behind, ~met
        for _ in range(1, moves):
            chain, y = self.move(chain.x, behind, state, generator)
            behind = torch.where(per_sample(met, y), chain.x, y)
            met = met | together(chain.x, behind)
            yield chain, behind, ~met

    def coupling(self) -> Coupling:
        return Coupling(self.meeting_times, self.burn_in, self.max_moves)

    @torch.no_grad()
    def meeting_times(self, x: Tensor, moves: int, generator: Generator) -> Tensor:
        """Return tau of pairs of chains that begin at x (B, *shape), (B,), and moves + 1 for those that are still
        apart after `moves` moves. The state of training stays as it is."""
        state = self.sampler_state or self.sampler.begin(self.energy, x, generator)
        tau = x.new_ones(len(x))
        for _, _, apart in self.pairs(x, state, moves, generator):
            tau += apart
            if not bool(apart.any()):
                break
        return tau

    def negatives(self, x: Tensor) -> Chain:
        state = self.sampler_state or self.sampler.begin(self.energy, x, self.generator)
        chains, ys, apart = zip(*self.pairs(x, state, self.max_moves, self.generator), strict=True)
        first, xs, evals = chains[0], [chain.x for chain in chains], sum(chain.grad_evals for chain in chains)
        self.sampler_state = first.state
        k, parted = self.burn_in, torch.stack(apart)
        self._pairs = torch.stack(xs[k:]), torch.stack(ys[k:]), parted[k:]
        times = {"meeting_time": 1 + parted.sum(0).to(x.dtype).mean(), "unmet": parted[-1].to(x.dtype).mean()}
        return Chain(xs[k - 1], first.state, first.metrics | times, evals)

    def extra(self, chain: Chain) -> Loss:
        assert self._pairs is not None, "negatives has been called"
        (x, y, apart), self._pairs = self._pairs, None
        correction = coupling_correction(self.energy, x, y, apart).mean()
        return Loss(-correction, {"correction": correction.detach()}, 2 * apart.numel())


def together(x: Tensor, y: Tensor) -> Tensor:
    """Return which rows of x and y (B, *shape) are the same point, (B,)."""
    return (x == y).flatten(1).all(1)
