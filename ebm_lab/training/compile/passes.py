"""The loss of one turn and its gradients as one compiled graph.

torch.compile does not support a loss that differentiates twice. So loss and derivatives are traced to one flat graph of
tensor operations, and torch's inductor compiles the graph: it fuses the operations between matrix products and avoids
dispatching a thousand small operations. Random numbers and state are those of the eager pass; values differ by float32
rounding, because sums are taken in another order.

A graph is fixed; everything that varies is its input: parameters, buffers, the sampler's state, the batch and random
numbers (random_inputs.py). An objective whose pass is not a fixed graph (a branch that depends on a value, a counter
kept in Python) runs eagerly, and a line tells why.

Whether a pass is compiled depends only on config, machine and state, never on a clock, so resuming is bit-exact.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Loss, Objective, Turn
from ebm_lab.core.turns import loss_of, takes_turns
from ebm_lab.training.compile import matmul, sines
from ebm_lab.training.compile.captured import Captured
from ebm_lab.training.compile.graphs import compiled, reason, refuse, untouched
from ebm_lab.training.compile.random_inputs import Draw, Untraceable, recorded, replayed
from ebm_lab.training.nested import objectives, sampler_states, set_sampler_states

Update = tuple[dict[str, Tensor], int]
"""The metrics of a step or pass and its number of gradient evaluations."""
Scope = Callable[[], AbstractContextManager[Any]]


class State(NamedTuple):
    """The inputs of a graph. A whole step changes the first four in place; a pass has no moments, average and rates."""

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


class CompiledPasses:
    """The compiled passes of an objective, one for each turn, made when the turn first occurs."""

    def __init__(
        self, objective: Objective, say: Callable[[str], None], scope: Scope = nullcontext, capture: bool = False
    ) -> None:
        self.make = lambda turn: CompiledPass(objective, say, turn, scope, capture)
        self.passes: dict[Turn, CompiledPass] = {}

    def __call__(self, batch: Batch, turn: Turn, share: float) -> Update | None:
        """Add `share` times the gradients, or do nothing and return None if the eager pass must be taken."""
        if turn not in self.passes:
            self.passes[turn] = self.make(turn)
        return self.passes[turn](batch, share)


class CompiledPass:
    """The compiled pass of one turn: `pass(batch, share)` adds to `.grad` and returns metrics and evaluations.

    It does nothing and returns None if the eager pass must be taken. scope: the context in which the loss is computed,
    such as autocast. capture: launch the traced operations as a CUDA graph instead of compiling them.
    """

    def __init__(
        self,
        objective: Objective,
        say: Callable[[str], None],
        turn: Turn = ALL_PLAYERS,
        scope: Scope = nullcontext,
        capture: bool = False,
    ) -> None:
        self.objective, self.say, self.turn, self.scope, self.capture = objective, say, turn, scope, capture
        self.nested = objectives(objective)
        players = objective.players()
        self.moved: list[Tensor] | None = None if turn.movers is None else [p for n in turn.movers for p in players[n]]
        """The parameters that the turn moves; None means all of them."""
        self.frozen = set() if self.moved is None else {*objective.parameters()} - {*self.moved}
        self.parameters = dict(objective.named_parameters())
        self.graph: Callable[..., Sequence[Tensor]] | None = None
        self.refused: str | None = None
        self.draws: list[Draw] = []
        self.metrics: list[str] = []
        self.trained: list[str] = []
        """Names of the parameters on which the loss depends."""
        self.evals = 0
        self.rates: list[Tensor] = []
        """Numbers that the graph takes as inputs, and that change from step to step."""

    def __call__(self, batch: Batch, share: float) -> Update | None:
        if not self._ready(batch):
            return None
        metrics, grads = self._run(batch)
        for name, grad in zip(self.trained, grads, strict=True):
            p, own = self.parameters[name], grad if share == 1 else grad * share
            p.grad = own if p.grad is None else p.grad + own
        return metrics, self.evals

    def _ready(self, batch: Batch) -> bool:
        """Build the graph if there is none; return whether it holds for this batch."""
        if self.refused:
            return False
        if self.graph is None:
            try:
                self._build(batch)
            except NoState:
                return False
            except Exception as problem:  # a tracer or compiler can raise anything; the eager step still works
                self.refused = reason(problem)
                self.say(f"compile: {type(self.objective).__name__} runs eagerly ({self.refused})")
                return False
        return self._signature(batch) == self.signature

    def _run(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Run the graph and set the sampler's state; returns the metrics and what the graph returns beyond them."""
        assert self.graph is not None
        sampler, draws = sampler_states(self.nested), [d.repeat() for d in self.draws]
        with torch.no_grad():
            out = iter(self.graph(*self._persistent, *sampler.values(), *_tensors(batch), *draws, *self.rates))
        metrics = {name: next(out) for name in self.metrics}
        set_sampler_states(self.nested, {name: next(out) for name in sampler})
        return metrics, list(out)

    def _signature(self, batch: Batch) -> list[Any]:
        """Return the shapes and dtypes for which the graph is valid."""
        sampler = sampler_states(self.nested)
        return [*sampler, *((t.shape, t.dtype) for t in (*sampler.values(), *_tensors(batch)))]

    def _gather(self) -> State:
        """Return the present state without batch and draws, and remember the tensors that persist between steps."""
        state = self._state()
        self._persistent = pytree.tree_leaves(state[:4])
        return state

    def _state(self) -> State:
        return State(
            parameters={name: p.detach() for name, p in self.parameters.items()},
            buffers=dict(self.objective.named_buffers()),
            moments={},
            average=[],
            sampler=sampler_states(self.nested),
            batch=[],
            draws=[],
            rates=self.rates,
        )

    def _build(self, batch: Batch) -> None:
        """Run the pass once to record what it draws, then trace and compile it; no state changes."""
        import torch.fx.experimental.proxy_tensor as tracer

        with untouched(self.objective), recorded() as self.draws, self.scope():
            loss_of(self.objective, batch, self.turn)
        if sum(p is not None for m in self.objective.modules() for p in m._parameters.values()) > len(self.parameters):
            raise Untraceable("two of its modules share a parameter")
        state = self._gather()._replace(batch=_tensors(batch), draws=[d.out for d in self.draws])
        flat, spec = pytree.tree_flatten(state)
        with untouched(self.objective), torch.no_grad():
            inputs = [t.clone() for t in flat]
            module = tracer.make_fx(lambda *x: self._traced(pytree.tree_unflatten(x, spec)))(*inputs)
        refuse(module)
        matmul.rewrite(module)
        sines.rewrite(module)
        self.graph = Captured(module, flat, len(self._persistent)) if self.capture else compiled(module, inputs)
        self.signature = self._signature(batch)

    def _traced(self, state: State) -> list[Tensor]:
        """Compute the graph's outputs from its state: metrics, new sampler state, and those of `_finish`."""
        objective, parts = self.objective, self.parameters.items()
        set_sampler_states(self.nested, state.sampler)
        moves = {n: p.requires_grad and p not in self.frozen for n, p in parts}
        leaves = {n: state.parameters[n].detach().requires_grad_(moves[n]) for n, _ in parts}
        arguments = (Batch(*state.batch), *([self.turn] if takes_turns(objective) else []))
        with torch.enable_grad(), replayed(self.draws, state.draws):
            # tie_weights=True would leave a module with two paths holding the traced tensors
            with self.scope():
                loss: Loss = functional_call(objective, leaves | state.buffers, arguments, tie_weights=False)
            loss.value.backward(inputs=[leaf for leaf in leaves.values() if leaf.requires_grad])
        adapted = sampler_states(self.nested)
        if list(adapted) != list(state.sampler):
            raise Untraceable("its sampler's state changes its names")
        grads = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
        self.trained, self.evals = list(grads), loss.grad_evals
        metrics, last = self._finish(state, dict(loss.metrics), grads)
        self.metrics = list(metrics)
        return [*metrics.values(), *adapted.values(), *last]

    def _finish(
        self, state: State, metrics: dict[str, Tensor], grads: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return all metrics and the further outputs of the graph: here the gradients."""
        return metrics, list(grads.values())


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in batch if t is not None]
