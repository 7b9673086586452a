"""One training step as one compiled graph: objective, its gradient, clipping, Adam and the moving average.

It is the compiled pass (passes.py) with the update in the same graph; learning rates, Adam's state and the averages are
inputs too. It needs one pass a step, one process and Adam. Otherwise the passes are compiled, and the update stays
outside. The first step is always eager, because it creates the state that the graph takes as input.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Objective, Turn
from ebm_lab.training.compile.passes import CompiledPass, NoState, Scope, State, Update
from ebm_lab.training.ema import EMA
from ebm_lab.training.optimiser import Optimiser, norm_names


def clipped(grads: list[Tensor], max_norm: float | None) -> tuple[list[Tensor], Tensor]:
    """Return the gradients, scaled to a global norm of at most `max_norm`, and their original norm, 0-d."""
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    if max_norm is None:
        return grads, norm
    scale = (max_norm / (norm + 1e-6)).clamp_max(1.0)
    return [g * scale for g in grads], norm


def adamw(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: Tensor, lr: Tensor, group: dict[str, Any], decay: float
) -> None:
    """Take a step of Adam with decoupled weight decay, in place; m, v and t are updated too.

        theta <- (1 - lr decay) theta - lr m_hat / (sqrt(v_hat) + eps)

    Kingma and Ba, Adam, 2015, algorithm 1; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """
    beta1, beta2 = group["betas"]
    t.add_(1)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    m_hat, v_hat = m / (1 - beta1 ** t.double()), v / (1 - beta2 ** t.double())  # 1 - 0.999^t loses digits in float32
    p.mul_(1 - lr * decay).sub_(lr * m_hat / (v_hat.sqrt() + group["eps"]))


class CompiledSteps:
    """The compiled steps of an objective, one for each turn, made when the turn first occurs."""

    def __init__(
        self,
        objective: Objective,
        optimisers: dict[str, Optimiser],
        ema: EMA,
        say: Callable[[str], None],
        scope: Scope = nullcontext,
        capture: bool = False,
    ) -> None:
        self.make = lambda turn: CompiledStep(objective, optimisers, ema, say, turn, scope, capture)
        self.steps: dict[Turn, CompiledStep] = {}

    def __call__(self, step: int, batch: Batch, turn: Turn) -> Update | None:
        """Take the whole step, or do nothing and return None if the eager step must be taken."""
        if turn not in self.steps:
            self.steps[turn] = self.make(turn)
        return self.steps[turn].step(step, batch)


class CompiledStep(CompiledPass):
    """The compiled step of one turn: `step(number, batch)` returns its metrics and gradient evaluations.

    It does nothing and returns None if the eager step must be taken.
    """

    def __init__(
        self,
        objective: Objective,
        optimisers: dict[str, Optimiser],
        ema: EMA,
        say: Callable[[str], None],
        turn: Turn = ALL_PLAYERS,
        scope: Scope = nullcontext,
        capture: bool = False,
    ) -> None:
        super().__init__(objective, say, turn, scope, capture)
        names = dict(zip(optimisers, norm_names(optimisers), strict=True))
        self.ema = ema
        self.optimisers = {n: o for n, o in optimisers.items() if turn.movers is None or n in turn.movers}
        self.norms = [names[n] for n in self.optimisers]
        self.names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}
        device = ema.average[0].device
        self.rates = [torch.zeros((), dtype=torch.float64, device=device) for _ in [*self.optimisers, ema]]

    def step(self, step: int, batch: Batch) -> Update | None:
        if step == 1 or not all(o.optimiser.state for o in self.optimisers.values()) or not self._ready(batch):
            return None
        if any(o.optimiser.state is not s for o, s in zip(self.optimisers.values(), self._adam, strict=True)):
            self._gather()  # a checkpoint was loaded, which replaced the tensors of Adam's state
        rates = [*(o.rate(step) for o in self.optimisers.values()), self.ema.rate(step)]
        for number, value in zip(self.rates, rates, strict=True):
            number.fill_(value)
        return self._run(batch)[0], self.evals

    def _state(self) -> State:
        self._adam = [o.optimiser.state for o in self.optimisers.values()]
        moments = {self.names[p]: (s["exp_avg"], s["exp_avg_sq"], s["step"]) for o in self._adam for p, s in o.items()}
        return super()._state()._replace(moments=moments, average=self.ema.averages(self.moved))

    def _finish(
        self, state: State, metrics: dict[str, Tensor], grads: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Update parameters and averages in place; the metrics gain each optimiser's gradient norm."""
        norms = []
        for optimiser, lr in zip(self.optimisers.values(), state.rates, strict=False):
            names = [n for n in (self.names[p] for p in optimiser.parameters) if n in grads]
            if any(n not in state.moments for n in names):
                raise NoState
            cut, norm = clipped([grads[n] for n in names], optimiser.clip)
            for name, g in zip(names, cut, strict=True):
                p, group = state.parameters[name], optimiser.optimiser.param_groups[0]
                adamw(p, g, *state.moments[name], lr, group, optimiser.decay if p.ndim else 0.0)
            norms.append(norm)
        moved = self.ema.parameters if self.moved is None else self.moved
        for average, p in zip(state.average, moved, strict=True):
            average.lerp_(state.parameters[self.names[p]], state.rates[-1].to(average.dtype))
        return metrics | dict(zip(self.norms, norms, strict=True)), []
