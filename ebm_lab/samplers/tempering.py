"""Parallel tempering (replica exchange): chains that cross barriers which a chain at T = 1 would not.

    replicas x_1 .. x_R at T_r = max_temperature^((r - 1) / (R - 1)), their law  prod_r exp(-E(x_r) / T_r) / Z_r
    move: one MALA step in each replica, at its temperature
    swap: neighbours x_r <-> x_(r+1) with probability min(1, exp((1 / T_r - 1 / T_(r+1)) (E(x_r) - E(x_(r+1)))))

The swaps follow each move, of pairs (1, 2), (3, 4), .. and of pairs (2, 3), (4, 5), .. in turn (the deterministic
even-odd scheme): a replica keeps its direction until a swap is refused, whereas with turns drawn at random it would
walk at random. Moves and swaps leave the product invariant, so that x_1 has the law exp(-E) / Z exactly. exp(-E / T)
must be normalisable at max_temperature, which a confining quadratic in the energy ensures (energy.confine).

With refusals r of each pair and moves that forget their start, each chain makes 1 / (2 + 2 sum r / (1 - r)) round
trips per step. The sum of r, the metric `barrier`, hardly depends on the number of replicas; about 2 `barrier` + 1 of
them are enough, more if the moves forget slowly. For E = |x|^2 / 2 in d dimensions a swap between 1 / T = b and b' is
accepted with probability 2 I_{b / (b + b')}(d / 2, d / 2).

The hot replicas are passed from call to call in `state`, by position in the batch. If the chains of a batch change
between calls (a replay buffer, `cd`), a chain meets the hot replicas of another. That is exact too: the chains of all
positions and replicas together have a product law, which a swap between any two of them leaves invariant, as long as
the pairing does not depend on the states. Three cases are not exact: step sizes that follow the chains, unless
target_acceptance is null; the first call, or one with a batch of another size, where the hot replicas start as copies
of x and need time to reach their laws; and chains restarted from noise, as with any sampler.

An energy that is bound to its batch, by labels say, has a law of its own at each place, and a hot replica stays at the
law of the values that it has come by. So the values must be the same, place by place, from call to call: a call with
others is refused.

Robert H. Swendsen and Jian-Sheng Wang, Replica Monte Carlo Simulation of Spin-Glasses, 1986.
Charles J. Geyer, Markov Chain Monte Carlo Maximum Likelihood, 1991.
Saifuddin Syed, Alexandre Bouchard-Cote, George Deligiannidis and Arnaud Doucet, Non-Reversible Parallel Tempering: a
Scalable Highly Parallel MCMC Scheme, 2022, arXiv:1905.02939 (the even-odd scheme, its round trips and the barrier).
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen, gradient_of, rows_of
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.mcmc import accept, log_acceptance
from ebm_lab.core.model import values_bound
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import StepSize
from ebm_lab.samplers._metropolis import Point, Target, choose
from ebm_lab.samplers._swaps import check_values, climbed, ladder, swap_log_ratio, swapped


def mala(at: Callable[[Tensor], Point], now: Point, z: Tensor, eps: Tensor, t: Tensor) -> tuple[Point, Tensor]:
    """Return a Langevin proposal with standard normal z (N, *shape), and its log ratio (N,), with a step size eps (N,)
    and a temperature t (N,) for each of the N states."""
    wide = (-1, *[1] * (z.ndim - 1))
    eps, drift = eps.view(wide), (eps / t).view(wide)  # in units of eps, grad (E / T) is eps / T grad E

    new = at(now.x - (eps * drift / 2) * now.grad + eps * z)
    there = (now.e / t, drift * now.grad, now.x / eps)
    return new, log_acceptance(*there, new.e / t, drift * new.grad, new.x / eps, 1.0)


@register("sampler", "tempering")
class Tempering(Sampler):
    """`steps` moves and swaps of `replicas` replicas, whose temperatures rise geometrically from 1 to
    `max_temperature`; a call returns the replica at T = 1. Each temperature has its own step size, which starts at
    step_size * scale * sqrt(T) and, unless `target_acceptance` is null, follows the target at `adapt_rate` per step. A
    step costs `replicas` gradients per chain, all in one batch.

    Metrics: `acceptance` and `step_size` of MALA at T = 1; `swap_acceptance`, the mean probability of a swap, and that
    of each pair, with `swap_1` the coldest (a pair near 0 splits the ladder: use more replicas); `barrier`, the sum of
    the pairs' refusals; `round_trips`, from cold to hot and back, per chain in 1,000 steps.
    """

    needs = (Need("energy", "energy"), Need("dataset", "continuous"))

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        replicas: Annotated[int, Field(ge=2)],
        max_temperature: Annotated[float, Field(gt=1)],
        step_size: PositiveFloat,
        target_acceptance: Target | None,
        adapt_rate: NonNegativeFloat,
    ) -> None:
        self.steps = steps
        self.replicas, self.max_temperature = replicas, max_temperature
        self.step_size = StepSize(step_size * scale, target_acceptance, adapt_rate)

    def temperatures(self, like: Tensor) -> Tensor:
        """Return the temperatures, (R,), of the type and on the device of `like`."""
        return ladder(self.max_temperature, self.replicas, like)

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return hot replicas (R - 1, B, *shape), copies of x; log step sizes (R,); whose turn it is, 0-d; which
        replicas have been at the top since they were at the bottom, (R, B); and the values that the energy is bound to,
        (B, k), if it is bound to any."""
        t, values = self.temperatures(x), values_bound(energy)
        return {
            "hot": x.expand(len(t) - 1, *x.shape).clone(),
            "log_eps": self.step_size.begin(x) + 0.5 * t.log(),
            "turn": torch.zeros((), dtype=torch.int64, device=x.device),
            "was_hot": torch.zeros(len(t), len(x), dtype=torch.bool, device=x.device),
            **({} if values is None else {"values": values}),
        }

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        if differentiable:
            raise UserError("sampler 'tempering': swaps have no derivative; choose sampler=langevin or underdamped")
        with frozen(energy):
            replicas, b = self.replicas, len(x)
            slope = gradient_of(rows_of(energy, lambda: torch.arange(replicas * b, device=x.device) % b))
            state = state or self.begin(energy, x, generator)
            if state["hot"].shape[1:] != x.shape:  # a batch of another size
                own = ("log_eps", "turn")
                state = {**self.begin(energy, x, generator), **{name: state[name] for name in own}}
            check_values(state.get("values"), values_bound(energy), "tempering")
            return self._run(lambda x: Point(x, *slope(x)), x, state, generator)

    def _run(
        self, at: Callable[[Tensor], Point], x: Tensor, state: Mapping[str, Tensor], generator: Generator
    ) -> Chain:
        t = self.temperatures(x)
        r, b = len(t), len(x)
        hot, log_eps, turn, was_hot = state["hot"], state["log_eps"], state["turn"], state["was_hot"]
        now = at(torch.cat([x, hot.flatten(0, 1)]))
        pairs, accepted, chances, trips = torch.arange(r - 1, device=x.device).view(-1, 1), [], [], []
        for _ in range(self.steps):
            z = torch.empty_like(now.x).normal_(generator=generator)
            new, log_ratio = mala(at, now, z, log_eps.exp().repeat_interleave(b), t.repeat_interleave(b))
            yes = accept(log_ratio, generator)
            now, log_eps = choose(yes, new, now), self.step_size.update(log_eps, log_ratio.view(r, b))
            accepted.append(yes[:b])

            log_ratio = swap_log_ratio(now.e.view(r, b), t)
            source = swapped(accept(log_ratio, generator) & ((pairs + turn) % 2 == 0))
            rows = (source * b + torch.arange(b, device=x.device)).flatten()
            now, turn = Point(*(part[rows] for part in now)), turn + 1
            was_hot, back = climbed(was_hot, source)
            trips.append(back.float().mean())
            chances.append(log_ratio.clamp_max(0).exp().nan_to_num(0.0).mean(1))
        chance = torch.stack(chances).mean(0)
        metrics = {
            "acceptance": torch.stack(accepted).float().mean(),
            "step_size": log_eps[0].exp(),
            "swap_acceptance": chance.mean(),
            "barrier": (1 - chance).sum(),
            "round_trips": 1000 * torch.stack(trips).mean(),
            **{f"swap_{i + 1}": c for i, c in enumerate(chance)},
        }
        hot = now.x[b:].view(r - 1, *x.shape)
        state = {**state, "hot": hot.clone(), "log_eps": log_eps, "turn": turn, "was_hot": was_hot}
        return Chain(now.x[:b].clone(), state, metrics, (self.steps + 1) * r * b)
