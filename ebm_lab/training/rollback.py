"""Return a run to an earlier checkpoint: to the last good one after trouble, to the best one at its end."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ebm_lab.core.errors import Diverged
from ebm_lab.training.early_stopping import RISE
from ebm_lab.training.guard import Trouble

if TYPE_CHECKING:
    from ebm_lab.training.trainer import Trainer


def roll_back(trainer: "Trainer", troubles: list[Trouble]) -> None:
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


def take_best(trainer: "Trainer") -> None:
    """Return to the best step if the held-out loss has risen since by more than chance allows."""
    state, watch = trainer.state, trainer.state.early_stopping
    if watch is None or trainer.saver is None or state.costs.best_step in (None, state.step):
        return
    with trainer.clock.evaluating(state.costs), state.ema.applied():
        rise = watch.rise(watch.losses())
    if rise <= RISE:
        return
    spent, events, last = state.costs, state.guard.events, state.step
    state.restore(trainer.saver.read("best"))
    state.costs, state.guard.events = replace(spent, step=state.step), events
    trainer.save()
    trainer.say(
        f"early stopping: the loss on held-out points was lowest at step {state.step} and {rise:.1f} standard "
        f"errors higher at step {last}; the run ends with the weights of step {state.step}"
    )
