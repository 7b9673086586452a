"""Return a run to an earlier checkpoint: to the last good one after trouble, to the best one at its end."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from ebm_lab.core.errors import Diverged
from ebm_lab.training.costs import Clock
from ebm_lab.training.early_stopping import END
from ebm_lab.training.guard import Trouble
from ebm_lab.training.state import State


class Saver(Protocol):
    """Storage of checkpoints. Each method may raise OSError, and then leaves the existing files as they were."""

    def write(self, which: Literal["last", "best", "good"], content: Mapping[str, Any]) -> None:
        """Replace the checkpoint of this name."""
        ...

    def propose(self) -> None:
        """Keep the last checkpoint as the candidate for the good one."""
        ...

    def promote(self) -> None:
        """Make the candidate the good checkpoint."""
        ...

    def read(self, which: Literal["best", "good"]) -> dict[str, Any]:
        """Read that checkpoint."""
        ...


class Training(Protocol):
    """What is returned to an earlier checkpoint: a trainer (trainer.py), of which this is used here."""

    state: State
    saver: Saver | None
    clock: Clock
    advise: Callable[[list[Trouble], bool], str]
    say: Callable[[str], None]
    rewound: Callable[[int, list[dict[str, Any]]], None]

    def save(self) -> None: ...


def roll_back(trainer: Training, troubles: list[Trouble]) -> None:
    """Return to the last good checkpoint with half the learning rate; raises Diverged if that was done too often.

    What the run has spent and the best validation value stay; `last.pt` is written before metrics.jsonl is cut, and
    holds the events, so a kill in between loses nothing.
    """
    state = trainer.state
    seen = f"step {state.step}: {'; '.join(t.seen for t in troubles)}"
    tips = trainer.advise(troubles, "chain_distance" in state.meter.names)
    if trainer.saver is None:
        raise Diverged(f"{seen}. {tips}")
    spent, events, watch = state.costs, state.guard.events, state.early_stopping
    lowest = None if watch is None else watch.best
    bases = {name: optimiser.base for name, optimiser in state.optimisers.items()}
    again = len(events) < state.guard.rollbacks
    state.restore(trainer.saver.read("good"))
    step = state.step
    state.costs = replace(spent, step=step)
    state.guard.events, state.guard.candidate = events, None
    if watch is not None:
        watch.best = lowest
    for name, optimiser in state.optimisers.items():
        optimiser.base = bases[name] / 2 if again else bases[name]
    if again:
        count, lr = len(events) + 1, next(iter(state.optimisers.values())).base
        event = {"step": step, "event": "rollback", "from": spent.step, "rollback": count, "seen": seen, "lr": lr}
        state.guard.events = [*events, event]
    trainer.save()
    if not again:
        tried = f" after {len(events)} rollback(s)" if events else ""
        raise Diverged(f"{seen}{tried}. Kept: the good checkpoint of step {step}. {tips}")
    trainer.rewound(step, state.guard.events)
    trainer.clock.begin_window(state.costs)
    trainer.say(
        f"guard: {seen}; rolled back to step {step}, learning rate halved to {lr:g} "
        f"(rollback {count} of {state.guard.rollbacks})"
    )


def take_best(trainer: Training) -> None:
    """Return to the best step if the held-out loss has risen since by more than chance allows, or if it is not surely
    lower than that of the base."""
    state, watch = trainer.state, trainer.state.early_stopping
    if watch is None or trainer.saver is None or state.costs.best_step in (None, state.step):
        return
    with trainer.clock.evaluating(state.costs), state.ema.applied():
        losses = watch.losses()
    rise = watch.rise(losses)
    if rise <= END and watch.beats_base(losses):
        return
    spent, events, last = state.costs, state.guard.events, state.step
    state.restore(trainer.saver.read("best"))
    state.costs, state.guard.events = replace(spent, step=state.step), events
    trainer.save()
    if rise > END:
        seen = f"was lowest at step {state.step} and {rise:.1f} standard errors higher at step {last}"
    else:
        seen = f"is not surely lower at step {last} than that of the base"
    trainer.say(
        f"early stopping: the loss on held-out points {seen}; the run ends with the weights of step {state.step}"
    )
