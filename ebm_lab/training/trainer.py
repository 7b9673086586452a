"""The training loop. It uses an objective only through its turns, its gradients and its players."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ebm_lab.core.functional import frozen
from ebm_lab.core.interfaces import Batch, Logger, Turn
from ebm_lab.core.streams import say
from ebm_lab.training.batches import Batches
from ebm_lab.training.costs import Clock
from ebm_lab.training.evaluations import Evaluations, Failure
from ebm_lab.training.guard import Trouble
from ebm_lab.training.optimiser import step_all
from ebm_lab.training.rollback import Saver, roll_back, take_best
from ebm_lab.training.state import State

ENDS = ("done", "max_seconds", "early_stopping")
"""How the loop may end by itself; it is interrupted otherwise."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The intervals of a run in training steps. `max_seconds`: limit on this process's training time, null for none."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    max_seconds: float | None


@dataclass(kw_only=True)
class Trainer:
    """Train a state on batches, evaluate it and save it; every process of a run does the same.

    gradients: sets the parameters' gradients from the parts of a batch; returns metrics and the number of gradient
    evaluations. compiled: takes the whole step on a batch in one part, or returns None if the eager step must be taken.
    advise: returns in words what to try after troubles; its second argument tells whether the run has chains. rewound:
    called after a rollback with the step returned to and all rollbacks so far. notes: lines for the user, printed once
    at the start. stop: set from outside (by a signal) to end the loop after the current step.
    """

    state: State
    batches: Batches
    schedule: Schedule
    evaluations: Evaluations
    gradients: Callable[[Sequence[Batch], Turn], tuple[dict[str, Tensor], int]]
    compiled: Callable[[int, Batch, Turn], tuple[dict[str, Tensor], int] | None] | None = None
    saver: Saver | None = None
    notes: Sequence[str] = ()
    loggers: Sequence[Logger] = ()
    clock: Clock = field(default_factory=Clock)
    advise: Callable[[list[Trouble], bool], str] = lambda troubles, chains: ""
    say: Callable[[str], None] = say
    rewound: Callable[[int, list[dict[str, Any]]], None] = lambda step, events: None
    stop: str | None = None
    unsaved: str | None = None
    """Why the last checkpoint could not be written; None if it was written."""
    failed: dict[str, str] = field(default_factory=dict)
    """Errors of the evaluations that failed the last time, by name."""
    _said: set[str] = field(default_factory=set)

    def fit(self) -> str:
        """Train up to `schedule.steps`; returns why the loop ended: 'done', 'max_seconds', 'early_stopping' or the
        value of `stop`.

        A state in trouble is never saved: the run returns to its last good checkpoint, or Diverged is raised.
        """
        plan, began = self.schedule, time.perf_counter()
        if self.saver is not None and not self.state.step:  # the first good checkpoint is the initial state
            self._write("good")
            self._keep_best(self._held_out_loss())
        while self.state.step < plan.steps:
            step = self.state.step + 1
            self._train_step(step)
            late = plan.max_seconds is not None and time.perf_counter() - began > plan.max_seconds
            stop = self.state.processes.any_requested(
                self.stop or ("max_seconds" if late and step < plan.steps else None)
            )
            logging = step % plan.log_every == 0 or step == plan.steps
            evaluating = step % plan.eval_every == 0 and step < plan.steps
            saving = step % plan.checkpoint_every == 0 or step == plan.steps or stop
            looking = self.state.early_stopping is not None and step % plan.checkpoint_every == 0
            if (logging or evaluating or saving) and (troubles := self._troubles(logging)):
                roll_back(self, troubles)
                continue
            if logging or evaluating or looking:
                metrics = (self._window() if logging else {}) | self._spent()
                metrics |= self._validate(evaluating, looking) if evaluating or looking else {}
                for logger in self.loggers:
                    logger.scalars(metrics, step)
            if saving:  # not a candidate if only `stop` asks for it: stopping must not change the run
                self.save(candidate=step % plan.checkpoint_every == 0)
            watch = self.state.early_stopping
            if not stop and looking and step < plan.steps and watch is not None and watch.over:
                stop = "early_stopping"
            if stop in ENDS:
                take_best(self)
            if stop:
                return stop
        if not plan.steps:
            self.save()
        take_best(self)
        return "done"

    def _train_step(self, step: int) -> None:
        state, parts = self.state, self.batches(step)
        turn = state.objective.turn(step)
        done = self.compiled(step, parts[0], turn) if self.compiled is not None else None
        metrics, evals = done or self._eager_step(step, parts, turn)
        state.meter.add(metrics)
        if step == 1:
            state.guard.begin(state.meter.means(state.processes))
        state.costs.step = step
        state.costs.grad_evals += evals

    def _eager_step(self, step: int, parts: Sequence[Batch], turn: Turn) -> tuple[dict[str, Tensor], int]:
        state, movers = self.state, turn.movers
        metrics, evals = self.gradients(parts, turn)
        metrics |= step_all(state.optimisers, step, movers)
        moved = None if movers is None else [p for name in movers for p in state.optimisers[name].parameters]
        state.ema.update(step, moved)
        return metrics, evals

    def _troubles(self, complete: bool) -> list[Trouble]:
        """Return the troubles of the window so far; only a `complete` one is compared with the guard's limits."""
        state = self.state
        means = state.meter.means(state.processes)
        return state.guard.broken(means, state.ema.parameters) or (state.guard.check_window(means) if complete else [])

    def _window(self) -> dict[str, float]:
        """Return the mean metrics of the window and its speed, and begin the next; it may prove a checkpoint good."""
        state = self.state
        metrics = state.meter.means(state.processes)
        state.meter.clear()
        if state.guard.record_window(metrics, state.step) and self.saver is not None:
            state.processes.on_first(self.saver.promote)
        rate = self.clock.rate(state.costs)
        rates = [o.optimiser.param_groups[0]["lr"] for o in state.optimisers.values()]
        named = {f"lr_{name}" if i else "lr": rates[i] for i, name in enumerate(state.optimisers)}
        return metrics | named | {"steps_per_second": round(rate, 3)}

    def _spent(self) -> dict[str, float]:
        """Return the costs of the run so far, without this step's evaluations."""
        costs = self.state.costs
        self.clock.tick(costs)
        return {"grad_evals": costs.grad_evals, **self.state.processes.total(costs.cpu)}

    def _validate(self, evaluating: bool = True, looking: bool = False) -> dict[str, float]:
        metrics = (self.evaluate("val") if evaluating else {}) | (self._held_out_loss() if looking else {})
        self._keep_best(metrics)
        return {f"val/{name}": value for name, value in metrics.items()}

    def _held_out_loss(self) -> dict[str, float]:
        """The loss on the validation split that the run watches, if it does."""
        state = self.state
        if state.early_stopping is None:
            return {}
        with self.clock.evaluating(state.costs), state.ema.applied():
            return {state.early_stopping.metric: state.early_stopping.look()}

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        """Save `best.pt` if no step before has reached so low a value of the metric that the run is judged by."""
        costs = self.state.costs
        watch = self.state.early_stopping
        monitors = self.evaluations.monitors if watch is None else [watch.metric]
        if costs.best_by not in monitors:
            costs.best = None
        first = next((name for name in monitors if name in metrics), "")
        monitor = first if costs.best is None else costs.best_by or first
        lower = costs.best is None or (metrics.get(monitor, math.inf) < costs.best if watch is None else watch.is_best)
        if monitor in metrics and lower:
            costs.best, costs.best_step, costs.best_by = metrics[monitor], costs.step, monitor
            self.save(best=True)

    def evaluate(self, split: Literal["val", "test"]) -> dict[str, float]:
        """Run the evaluations that apply, with averaged weights, and in eval mode, so that no buffer changes."""
        metrics: dict[str, float] = {}
        state = self.state
        with self.clock.evaluating(state.costs), state.ema.applied(), frozen(state.objective.model()):
            self.failed = {}
            for name, report in self.evaluations.reports(split, state.step).items():
                if isinstance(report, Failure):
                    self.failed[name] = report.text
                    self.say_once(f"evaluation '{name}' failed; the run continues without it: {report.text}")
                    continue
                if isinstance(report, str):
                    self.say_once(f"evaluation '{name}' is left out: {report}", quiet=True)
                    continue
                metrics |= report.metrics
                for note in report.notes:
                    self.say_once(note)
                for image, picture in report.images.items():
                    for logger in self.loggers:
                        logger.image(image, picture, state.step)
        return metrics

    def note(self, line: str) -> None:
        """Add a line to `said` without printing it."""
        self.say_once(line, quiet=True)

    def say_once(self, line: str, quiet: bool = False) -> None:
        """Print a line the first time it occurs and add it to `said`; a quiet line is not printed."""
        if line not in self._said:
            self._said.add(line)
            if not quiet:
                self.say(line)

    @property
    def said(self) -> list[str]:
        return sorted(self._said)

    def save(self, *, best: bool = False, candidate: bool = False) -> None:
        """Write `last.pt`, or `best.pt` if `best`; `candidate`: as candidate for `good.pt` if there is none."""
        if self.saver is None:
            return
        step, guard = self.state.step, self.state.guard
        before = guard.candidate
        if candidate and before is None:
            guard.candidate = step
        try:
            self._write("best" if best else "last")
            if not best:
                self.keep_candidate()
                self.unsaved = None
        except OSError as problem:  # such as a full disk, which should not end training
            guard.candidate = before
            self.unsaved = str(problem)
            self.say(f"step {step}: checkpoint can't be written ({problem}); training goes on with the previous one")

    def _write(self, which: Literal["last", "best", "good"]) -> None:
        saver, state = self.saver, self.state
        assert saver is not None, "the callers check"
        self.clock.tick(state.costs)
        content = state.content()
        state.processes.on_first(lambda: saver.write(which, content))

    def keep_candidate(self) -> None:
        """Copy `last.pt` if it is the candidate; a resumed run repeats this, as a kill may have prevented it."""
        if self.saver is not None and self.state.guard.candidate == self.state.step:
            self.state.processes.on_first(self.saver.propose)
