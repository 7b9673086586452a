"""One training step as one compiled graph: objective, its gradient, clipping, Adam and the moving average.

torch.compile does not support a loss that differentiates twice. So the whole step is traced to one flat graph of tensor
operations, derivatives included, and torch's inductor compiles the graph: it fuses the operations between matrix
products and avoids dispatching a thousand small operations. Random numbers, state and checkpoints are those of the
eager step; values differ by float32 rounding, because sums are taken in another order.

A graph is fixed; everything that varies is its input: parameters, buffers, the sampler's state, the batch, random
numbers (random_inputs.py), learning rates, Adam's state and the averages. An objective whose step is not a fixed graph
(a branch that depends on a value, a counter kept in Python) runs eagerly, and a line tells why. The first step is
always eager, because it creates the state that the graph takes as input.

Whether a step is compiled depends only on config, machine and state, never on a clock, so resuming is bit-exact.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Loss, Objective, Turn
from ebm_lab.core.turns import loss_of, takes_turns
from ebm_lab.training.compile.graphs import compiled, reason, refuse, untouched
from ebm_lab.training.compile.matmul import rewrite
from ebm_lab.training.compile.random_inputs import Draw, Untraceable, recorded, replayed
from ebm_lab.training.ema import EMA
from ebm_lab.training.nested import objectives, sampler_states, set_sampler_states
from ebm_lab.training.optim.adam import Adam
from ebm_lab.training.optimiser import Optimiser, norm_names

Update = tuple[dict[str, Tensor], int]
"""The metrics of a step and its number of gradient evaluations."""


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


class State(NamedTuple):
    """The inputs of a step, which changes the first four in place."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    moments: dict[str, tuple[Tensor, Tensor, Tensor]]
    average: list[Tensor]
    sampler: dict[str, Tensor]
    batch: list[Tensor]
    draws: list[Tensor]
    rates: list[Tensor]


class NoState(Exception):
    """Raised if a parameter got no gradient in any turn so far; the eager step creates its optimiser's state."""


class CompiledSteps:
    """The compiled steps of an objective, one for each turn, made when the turn first occurs."""

    def __init__(
        self, objective: Objective, optimisers: dict[str, Optimiser], ema: EMA, say: Callable[[str], None]
    ) -> None:
        self.make = partial(CompiledStep, objective, optimisers, ema, say)
        self.steps: dict[Turn, CompiledStep] = {}

    def __call__(self, step: int, batch: Batch, turn: Turn) -> Update | None:
        """Take the whole step, or do nothing and return None if the eager step must be taken."""
        if turn not in self.steps:
            self.steps[turn] = self.make(turn)
        return self.steps[turn](step, batch)


class CompiledStep:
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
    ) -> None:
        self.objective, self.ema, self.say, self.turn = objective, ema, say, turn
        self.nested = objectives(objective)
        names = dict(zip(optimisers, norm_names(optimisers), strict=True))
        self.optimisers = {n: o for n, o in optimisers.items() if turn.movers is None or n in turn.movers}
        self.norms = [names[n] for n in self.optimisers]
        moved = [p for o in self.optimisers.values() for p in o.parameters]
        self.moved: list[Tensor] | None = None if turn.movers is None else moved
        """The parameters that the turn moves; None means all of them."""
        self.frozen = set() if turn.movers is None else {*objective.parameters()} - {*moved}
        self.parameters = dict(objective.named_parameters())
        self.names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}
        self.fused = all(type(o) is Adam for o in optimisers.values())
        """Whether Adam and the averages are in the graph; other optimisers step outside it, with its gradients."""
        self.graph: Callable[..., Sequence[Tensor]] | None = None
        self.refused: str | None = None
        self.draws: list[Draw] = []
        self.metrics: list[str] = []
        self.trained: list[str] = []
        """Names of the parameters on which the loss depends."""
        self.evals = 0
        self._rates = [
            torch.zeros((), dtype=torch.float64, device=ema.average[0].device) for _ in [*self.optimisers, ema]
        ]

    def __call__(self, step: int, batch: Batch) -> Update | None:
        has_state = all(o.optimiser.state for o in self.optimisers.values()) or not self.fused
        if step == 1 or self.refused or not has_state:
            return None
        if self.graph is None:
            try:
                self._build(batch)
            except NoState:
                return None
            except Exception as problem:  # a tracer or compiler can raise anything; the eager step still works
                self.refused = reason(problem)
                self.say(f"compile: {type(self.objective).__name__} runs eagerly ({self.refused})")
                return None
        return self._run(step, batch) if self._signature(batch) == self.signature else None

    def _run(self, step: int, batch: Batch) -> Update:
        assert self.graph is not None
        if any(o.optimiser.state is not s for o, s in zip(self.optimisers.values(), self._adam, strict=True)):
            self._gather()  # a checkpoint was loaded, which replaced the tensors of Adam's state
        for rate, value in zip(self._rates, self._rate_values(step), strict=True):
            rate.fill_(value)
        sampler, draws = sampler_states(self.nested), [d.repeat() for d in self.draws]
        with torch.no_grad():
            out = iter(self.graph(*self._persistent, *sampler.values(), *_tensors(batch), *draws, *self._rates))
        metrics = {name: next(out) for name in self.metrics}
        set_sampler_states(self.nested, {name: next(out) for name in sampler})
        if not self.fused:
            for name, grad in zip(self.trained, out, strict=True):
                self.parameters[name].grad = grad
            metrics |= {n: o.step(step) for n, o in zip(self.norms, self.optimisers.values(), strict=True)}
            self.ema.update(step, self.moved)
        return metrics, self.evals

    def _rate_values(self, step: int) -> list[float]:
        return [*(o.rate(step) for o in self.optimisers.values()), self.ema.rate(step)]

    def _signature(self, batch: Batch) -> list[Any]:
        """Return the shapes and dtypes for which the graph is valid."""
        sampler = sampler_states(self.nested)
        return [*sampler, *((t.shape, t.dtype) for t in (*sampler.values(), *_tensors(batch)))]

    def _gather(self) -> State:
        """Return the present state without batch and draws, and remember the tensors that persist between steps."""
        self._adam = [o.optimiser.state for o in self.optimisers.values()]
        state = State(
            parameters={name: p.detach() for name, p in self.parameters.items()},
            buffers=dict(self.objective.named_buffers()),
            moments={
                self.names[p]: (s["exp_avg"], s["exp_avg_sq"], s["step"])
                for states in (self._adam if self.fused else [])
                for p, s in states.items()
            },
            average=self.ema.averages(self.moved) if self.fused else [],
            sampler=sampler_states(self.nested),
            batch=[],
            draws=[],
            rates=self._rates,
        )
        self._persistent = pytree.tree_leaves(state[:4])
        return state

    def _build(self, batch: Batch) -> None:
        """Run the step once to record what it draws, then trace and compile it; no state changes."""
        import torch.fx.experimental.proxy_tensor as tracer

        with untouched(self.objective), recorded() as self.draws:
            loss_of(self.objective, batch, self.turn)
        if sum(p is not None for m in self.objective.modules() for p in m._parameters.values()) > len(self.parameters):
            raise Untraceable("two of its modules share a parameter")
        state = self._gather()._replace(batch=_tensors(batch), draws=[d.out for d in self.draws])
        flat, spec = pytree.tree_flatten(state)
        with untouched(self.objective), torch.no_grad():
            inputs = [t.clone() for t in flat]
            module = tracer.make_fx(lambda *x: self._traced(pytree.tree_unflatten(x, spec)))(*inputs)
        refuse(module)
        rewrite(module)
        self.graph = compiled(module, inputs)
        self.signature = self._signature(batch)

    def _traced(self, state: State) -> list[Tensor]:
        """Compute the step as a function of its state: metrics, new sampler state and, if not `fused`, gradients."""
        objective, parts = self.objective, self.parameters.items()
        set_sampler_states(self.nested, state.sampler)
        moves = {n: p.requires_grad and p not in self.frozen for n, p in parts}
        leaves = {n: state.parameters[n].detach().requires_grad_(moves[n]) for n, _ in parts}
        arguments = (Batch(*state.batch), *([self.turn] if takes_turns(objective) else []))
        with torch.enable_grad(), replayed(self.draws, state.draws):
            # tie_weights=True would leave a module with two paths holding the traced tensors
            loss: Loss = functional_call(objective, leaves | state.buffers, arguments, tie_weights=False)
            loss.value.backward(inputs=[leaf for leaf in leaves.values() if leaf.requires_grad])
        adapted = sampler_states(self.nested)
        if list(adapted) != list(state.sampler):
            raise Untraceable("its sampler's state changes its names")
        grads = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
        self.trained, self.evals = list(grads), loss.grad_evals
        metrics = dict(loss.metrics)
        if self.fused:
            metrics |= dict(zip(self.norms, self._update(state, grads), strict=True))
        self.metrics = list(metrics)
        return [*metrics.values(), *adapted.values(), *([] if self.fused else grads.values())]

    def _update(self, state: State, grads: dict[str, Tensor]) -> list[Tensor]:
        """Update parameters and averages in place; returns each optimiser's gradient norm."""
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
        return norms


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]
