"""The training loop. It knows an objective only by its gradients and its players."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ebm_lab.core.errors import Diverged
from ebm_lab.core.functional import frozen
from ebm_lab.core.interfaces import Batch, Logger
from ebm_lab.core.streams import say
from ebm_lab.training import checkpoint
from ebm_lab.training.batches import Batches
from ebm_lab.training.guard import Trouble, advice
from ebm_lab.training.optimiser import step_all
from ebm_lab.training.rundir import RunDir
from ebm_lab.training.trained import Failure, Trained

MONITORS = ("nll", "mmd2")
"""What chooses the best checkpoint, on the validation split: the first that the evaluations report, lower is better. A
run keeps to one of them."""


@dataclass(kw_only=True)
class Trainer(Trained):
    """Everything that a run needs, built; `fit` runs it, alike in each of its processes."""

    batches: Batches
    gradients: Callable[[Sequence[Batch]], tuple[dict[str, Tensor], int]]
    """Leaves the gradients of a batch, given in parts, at the parameters; returns metrics and gradient evaluations."""
    compiled: Callable[[int, Batch], tuple[dict[str, Tensor], int] | None] | None = None
    """Does the whole step on a batch that is in one part, or returns None where the eager step is to."""
    chosen: dict[str, float] = field(default_factory=dict)
    """Settings given as `auto`, by their full keys, with the values chosen from the data."""
    loggers: Sequence[Logger] = ()
    run: RunDir | None = None
    say: Callable[[str], None] = say
    rewound: Callable[[int, list[dict[str, Any]]], None] = lambda step, events: None
    """Told the step that a rollback returned to, and all rollbacks so far."""
    stop: str | None = None
    """Set from outside (a signal) to end the loop after the current step."""
    unsaved: str | None = None
    """Why the last checkpoint could not be written; None once one was."""
    failed: dict[str, str] = field(default_factory=dict)
    """What each evaluation raised that failed when they were last done, by name."""
    _said: set[str] = field(default_factory=set)

    def fit(self) -> str:
        """Train up to `schedule.steps`; returns why the loop ended: 'done', 'max_seconds' or the value of `stop`.

        Trouble is never written: the run returns to its last good checkpoint, or Diverged is raised.
        """
        plan, began = self.schedule, time.perf_counter()
        self._keep_start()
        while self.counters.step < plan.steps:
            step = self.counters.step + 1
            self._train_step(step)
            late = plan.max_seconds is not None and time.perf_counter() - began > plan.max_seconds
            stop = self.processes.asked(self.stop or ("max_seconds" if late and step < plan.steps else None))
            logging = step % plan.log_every == 0 or step == plan.steps
            evaluating = step % plan.eval_every == 0 and step < plan.steps
            saving = step % plan.checkpoint_every == 0 or step == plan.steps or stop
            if (logging or evaluating or saving) and (troubles := self._troubles(logging)):
                self._roll_back(troubles)
                continue
            if logging or evaluating:
                metrics = (self._window() if logging else {}) | self._spent()
                metrics |= self._validate() if evaluating else {}
                for logger in self.loggers:
                    logger.scalars(metrics, step)
            if saving:  # one that a stop brings is no candidate, so that stopping changes nothing
                self.save(candidate=step % plan.checkpoint_every == 0)
            if stop:
                return stop
        return "done"

    def _train_step(self, step: int) -> None:
        parts = self.batches(step)
        metrics, evals = (self.compiled and self.compiled(step, parts[0])) or self._eager_step(step, parts)
        self.meter.add(metrics)
        if step == 1:
            self.guard.begin(self.meter.means(self.processes))
        self.counters.step = step
        self.counters.grad_evals += evals

    def _eager_step(self, step: int, parts: Sequence[Batch]) -> tuple[dict[str, Tensor], int]:
        metrics, evals = self.gradients(parts)
        metrics |= step_all(self.optimisers, step)
        self.ema.update(step)
        return metrics, evals

    def _troubles(self, whole: bool) -> list[Trouble]:
        """What the guard finds in the window so far; only a `whole` one is measured against the limits."""
        means = self.meter.means(self.processes)
        return self.guard.broken(means, self.ema.parameters) or (self.guard.watch(means) if whole else [])

    def _keep_start(self) -> None:
        """The first good checkpoint is the initial state."""
        if self.run is not None and not self.counters.step:
            self._write(self.run.good)

    def _roll_back(self, troubles: list[Trouble]) -> None:
        """Return to the last good checkpoint with half the learning rate; raises Diverged if that was done too often.

        What the run has spent and the best validation value stay; `last.pt` is written before metrics.jsonl is cut, and
        holds the events, so a kill in between loses nothing.
        """
        seen = f"step {self.counters.step}: {'; '.join(t.seen for t in troubles)}"
        tips = advice(troubles, self.config, "chain_distance" in self.meter.names, self.dataset)
        if self.run is None:
            raise Diverged(f"{seen}. {tips}")
        spent, events = self.counters, self.guard.events
        bases = {name: optimiser.base for name, optimiser in self.optimisers.items()}
        again = len(events) < self.guard.rollbacks
        self.restore(checkpoint.load(self.run.good, self.generator.device))
        step = self.counters.step
        self.counters = replace(spent, step=step)
        self.guard.events, self.guard.candidate = events, None
        for name, optimiser in self.optimisers.items():
            optimiser.base = bases[name] / 2 if again else bases[name]
        if again:
            count, lr = len(events) + 1, next(iter(self.optimisers.values())).base
            event = {"step": step, "event": "rollback", "from": spent.step, "rollback": count, "seen": seen, "lr": lr}
            self.guard.events = [*events, event]
        self.save()
        if not again:
            tried = f" after {len(events)} rollback(s)" if events else ""
            raise Diverged(f"{seen}{tried}. Kept: the good checkpoint of step {step}. {tips}")
        self.rewound(step, self.guard.events)
        self.clock.begin_window(self.counters)
        self.say(
            f"guard: {seen}; rolled back to step {step}, learning rate halved to {lr:g} "
            f"(rollback {count} of {self.guard.rollbacks})"
        )

    def _window(self) -> dict[str, float]:
        """Mean metrics since the last log line, with its rate; a clean window may prove a checkpoint good."""
        metrics = self.meter.means(self.processes)
        self.meter.clear()
        if self.guard.learn(metrics, self.counters.step) and self.run is not None:
            self.processes.lead(self.run.promote)
        rate = self.clock.rate(self.counters)
        lr = next(iter(self.optimisers.values())).optimiser.param_groups[0]["lr"]
        return metrics | {"lr": lr, "steps_per_second": round(rate, 3)}

    def _spent(self) -> dict[str, float]:
        """What the run has cost up to now, evaluations of this step not yet among it."""
        self.clock.tick(self.counters)
        return {"grad_evals": self.counters.grad_evals, **self.processes.total(self.counters.cpu)}

    def _validate(self) -> dict[str, float]:
        metrics = self.evaluate("val")
        best, first = self.counters.best, next((m for m in MONITORS if m in metrics), None)
        monitor = first if best is None else self.counters.best_by or first
        if monitor in metrics and (best is None or metrics[monitor] < best):
            self.counters.best, self.counters.best_step = metrics[monitor], self.counters.step
            self.counters.best_by = monitor
            self.save(best=True)
        return {f"val/{name}": value for name, value in metrics.items()}

    def evaluate(self, split: str) -> dict[str, float]:
        """Run the evaluations that apply, on the averaged weights; their pictures go to the loggers. The energy is in
        eval mode, so that looking at it changes nothing that it keeps."""
        metrics: dict[str, float] = {}
        with self.clock.evaluating(self.counters), self.ema.applied(), frozen(self.objective.energy):
            self.failed = {}
            for name, report in self.reports(split).items():
                if isinstance(report, Failure):
                    self.failed[name] = report.text
                    self.say_once(f"evaluation '{name}' failed, and all else goes on: {report.text}")
                    continue
                if isinstance(report, str):
                    self.say_once(f"evaluation '{name}' is left out: {report}", quiet=True)
                    continue
                metrics |= report.metrics
                for note in report.notes:
                    self.say_once(note)
                for image, picture in report.images.items():
                    for logger in self.loggers:
                        logger.image(image, picture, self.counters.step)
        return metrics

    def note(self, line: str) -> None:
        """Keep a line for `said` without printing it."""
        self.say_once(line, quiet=True)

    def say_once(self, line: str, quiet: bool = False) -> None:
        """Print a line the first time it comes; a quiet one is only kept for `said`."""
        if line not in self._said:
            self._said.add(line)
            if not quiet:
                self.say(line)

    @property
    def said(self) -> list[str]:
        return sorted(self._said)

    def save(self, *, best: bool = False, candidate: bool = False) -> None:
        """Write the checkpoint `last.pt` (or `best.pt`), as a candidate for `good.pt` if asked and if none waits."""
        if self.run is None:
            return
        step, before = self.counters.step, self.guard.candidate
        if candidate and before is None:
            self.guard.candidate = step
        try:
            self._write(self.run.best if best else self.run.last)
            if not best:
                self.keep_candidate()
                self.unsaved = None
        except OSError as problem:  # a full disk, say: training is worth more than this one checkpoint
            self.guard.candidate = before
            self.unsaved = str(problem)
            self.say(f"step {step}: checkpoint can't be written ({problem}); training goes on, the one before it stays")

    def _write(self, path: Path) -> None:
        content = self.content()
        self.processes.lead(lambda: checkpoint.save(path, content))

    def keep_candidate(self) -> None:
        """Set `last.pt` aside if it is the candidate; a resumed run does so again, for a kill may have come between."""
        run = self.run
        if run is not None and self.guard.candidate == self.counters.step:
            self.processes.lead(lambda: checkpoint.copy(run.last, run.candidate))
