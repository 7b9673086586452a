"""Parallel tempering of bits and categories, with any exact sampler as its moves.

    replicas x_1 .. x_R at T_r = max_temperature^((r - 1) / (R - 1)), their law  prod_r exp(-E(x_r) / T_r) / Z_r
    move: one call of the kernel in each replica, on E / T_r
    swap: neighbours, as in _swaps.py; pairs (1, 2), (3, 4), .. and (2, 3), (4, 5), .. in turn

Moves and swaps leave the product invariant, so that x_1 has the law exp(-E) / Z exactly. The hot replicas are passed
from call to call; at the first one, or with a batch of another size, they begin as copies of x and need time to reach
their laws. `tempering` is the same for real numbers, with MALA, in one batch for all temperatures.

Robert H. Swendsen and Jian-Sheng Wang, Replica Monte Carlo Simulation of Spin-Glasses, 1986.
Saifuddin Syed, Alexandre Bouchard-Cote, George Deligiannidis and Arnaud Doucet, Non-Reversible Parallel Tempering: a
Scalable Highly Parallel MCMC Scheme, 2022, arXiv:1905.02939 (the even-odd scheme).
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.choice import Nested
from ebm_lab.core.derived import Tempered
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Child, Need, keep
from ebm_lab.core.functional import EnergyFn, evaluate, frozen, rows_of
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.mcmc import accept
from ebm_lab.core.model import values_bound
from ebm_lab.core.registry import register
from ebm_lab.samplers._swaps import check_values, ladder, swap_log_ratio, swapped

EXACT = "swaps keep a law that each temperature's own moves keep"


@register("sampler", "replica_exchange")
class ReplicaExchange(Sampler):
    """`steps` rounds of moves and swaps of `replicas` replicas, whose temperatures rise geometrically from 1 to
    `max_temperature`; a call returns the replica at T = 1. `kernel`: the sampler that moves each replica, once a round.

    Metrics: those of the kernel at T = 1; `swap_acceptance`, the mean probability of a swap, and that of each pair,
    with `swap_1` the coldest.
    """

    needs = (Need("energy", "energy"), Need("dataset", "discrete"))

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must={"exact": EXACT}, sees=keep("energy", "score", "smooth")),)

    def __init__(
        self,
        *,
        steps: PositiveInt,
        replicas: Annotated[int, Field(ge=2)],
        max_temperature: Annotated[float, Field(gt=1)],
        kernel: Annotated[Any, Nested("sampler")],
    ) -> None:
        self.rounds, self.kernel = steps, kernel
        self.steps = steps * kernel.steps
        self.temperatures = [max_temperature ** (r / (replicas - 1)) for r in range(replicas)]

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return hot replicas (R - 1, B, *shape), copies of x; whose turn it is, 0-d; the kernel's state of each
        replica, by its number; and the values that the energy is bound to, if it is bound to any."""
        values, own = values_bound(energy), {}
        for r, t in enumerate(self.temperatures):
            state = self.kernel.begin(Tempered(energy, t), x, generator)
            own |= {f"{r}/{name}": value for name, value in state.items()}
        turn = torch.zeros((), dtype=torch.int64, device=x.device)
        hot = x.expand(len(self.temperatures) - 1, *x.shape).clone()
        return {"hot": hot, "turn": turn, **own, **({} if values is None else {"values": values})}

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
            raise UserError("sampler 'replica_exchange': swaps have no derivative")
        state = state or self.begin(energy, x, generator)
        if state["hot"].shape[1:] != x.shape:  # a batch of another size
            state = {**state, "hot": self.begin(energy, x, generator)["hot"]}
        check_values(state.get("values"), values_bound(energy), "replica_exchange")
        with frozen(energy), torch.no_grad():
            return self._run(energy, x.detach(), dict(state), generator)

    def _run(self, energy: EnergyFn, x: Tensor, state: dict[str, Tensor], generator: Generator) -> Chain:
        t = ladder(self.temperatures[-1], len(self.temperatures), x)
        r, b = len(t), len(x)
        places = torch.cat([x[None], state["hot"]])
        every = rows_of(energy, lambda: torch.arange(r * b, device=x.device) % b)
        pairs, chances, evals = torch.arange(r - 1, device=x.device).view(-1, 1), [], 0
        metrics: dict[str, Tensor] = {}
        for _ in range(self.rounds):
            moved = []
            for i in reversed(range(r)):  # the coldest last, whose metrics are kept
                mine = {k.removeprefix(f"{i}/"): v for k, v in state.items() if k.startswith(f"{i}/")}
                chain = self.kernel(Tempered(energy, self.temperatures[i]), places[i], mine, generator=generator)
                state |= {f"{i}/{name}": value for name, value in chain.state.items()}
                moved, metrics, evals = [chain.x, *moved], chain.metrics, evals + chain.grad_evals
            places = torch.stack(moved)
            log_ratio = swap_log_ratio(evaluate(every, places.flatten(0, 1)).view(r, b), t)
            source = swapped(accept(log_ratio, generator) & ((pairs + state["turn"]) % 2 == 0))
            places = places[source, torch.arange(b, device=x.device)]
            state["turn"] = state["turn"] + 1
            chances.append(log_ratio.clamp_max(0).exp().nan_to_num(0.0).mean(1))
        chance = torch.stack(chances).mean(0)
        metrics = {**metrics, "swap_acceptance": chance.mean(), **{f"swap_{i + 1}": c for i, c in enumerate(chance)}}
        state["hot"] = places[1:].clone()
        return Chain(places[0].clone(), state, metrics, evals + self.rounds * r * b)
