"""The training loop. It knows an objective only by `forward` and `players`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Generator, Tensor

from ebm_lab.core.errors import Diverged, UserError
from ebm_lab.core.functional import frozen
from ebm_lab.core.interfaces import Batch, Dataset, Logger, Objective, Sampler
from ebm_lab.core.random import stream
from ebm_lab.core.view import Evaluator, EvalView, Report
from ebm_lab.training import checkpoint
from ebm_lab.training.batches import Batches
from ebm_lab.training.counters import Clock, Counters
from ebm_lab.training.ema import EMA
from ebm_lab.training.guard import Guard, Trouble, advice
from ebm_lab.training.meter import Meter
from ebm_lab.training.optim import Optimiser
from ebm_lab.training.rundir import RunDir

MONITORS = ("nll", "mmd2")
"""What chooses the best checkpoint, on the validation split: the first that the evaluations report, lower is better."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When things happen, in steps; `samples` and `sample_steps`: how many samples an evaluation draws, and sampler
    steps from noise to sample, at `sample_temperature`; `max_seconds`: of training in this process, null for no
    limit."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    max_seconds: float | None
    samples: int
    sample_steps: int
    sample_temperature: float
    seed: int


@dataclass
class Trainer:
    """Everything that a run needs, built; `fit` runs it."""

    objective: Objective
    optimisers: dict[str, Optimiser]
    ema: EMA
    dataset: Dataset
    batches: Batches
    sampler: Sampler | None
    evaluators: dict[str, Evaluator]
    generator: Generator
    guard: Guard
    schedule: Schedule
    config: Mapping[str, Any]
    chosen: Mapping[str, float] = field(default_factory=dict)
    """Settings given as `auto`, by their full keys, with the values chosen from the data."""
    meter: Meter = field(default_factory=Meter)
    counters: Counters = field(default_factory=Counters)
    clock: Clock = field(default_factory=Clock)
    loggers: Sequence[Logger] = ()
    run: RunDir | None = None
    say: Callable[[str], None] = print
    rewound: Callable[[int, list[dict[str, Any]]], None] = lambda step, events: None
    """Told the step that a rollback returned to, and all rollbacks so far."""
    compiled: Callable[[int, Batch], tuple[dict[str, Tensor], int] | None] | None = None
    """Takes a step in place of the eager one, or returns None."""
    stop: str | None = None
    """Set from outside (a signal) to end the loop after the current step."""
    unsaved: str | None = None
    """Why the last checkpoint could not be written; None once one was."""
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
            stop = self.stop or ("max_seconds" if late and step < plan.steps else None)
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
        batch = self.batches(step)
        metrics, evals = (self.compiled and self.compiled(step, batch)) or self._eager_step(step, batch)
        self.meter.add(metrics)
        if step == 1:
            self.guard.begin(self.meter.means())
        self.counters.step = step
        self.counters.grad_evals += evals

    def _eager_step(self, step: int, batch: Batch) -> tuple[dict[str, Tensor], int]:
        loss = self.objective(batch)
        loss.value.backward()
        for name, optimiser in self.optimisers.items():
            loss.metrics[f"grad_norm_{name}" if len(self.optimisers) > 1 else "grad_norm"] = optimiser.step(step)
        self.ema.update(step)
        return loss.metrics, loss.grad_evals

    def _troubles(self, whole: bool) -> list[Trouble]:
        """What the guard finds in the window so far; only a `whole` one is measured against the limits."""
        means = self.meter.means()
        return self.guard.broken(means, self.ema.parameters) or (self.guard.watch(means) if whole else [])

    def _keep_start(self) -> None:
        """The first good checkpoint is the initial state."""
        if self.run is not None and not self.counters.step:
            checkpoint.save(self.run.good, self.content())

    def _roll_back(self, troubles: list[Trouble]) -> None:
        """Return to the last good checkpoint with half the learning rate; raises Diverged if that was done too often.

        What the run has spent and the best validation value stay; `last.pt` is written before metrics.jsonl is cut, and
        holds the events, so a kill in between loses nothing.
        """
        seen = f"step {self.counters.step}: {'; '.join(t.seen for t in troubles)}"
        tips = advice(troubles, self.config, "chain_distance" in self.meter.names)
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
        metrics = self.meter.means()
        self.meter.clear()
        if self.guard.learn(metrics, self.counters.step) and self.run is not None:
            self.run.promote()
        rate = self.clock.rate(self.counters)
        lr = next(iter(self.optimisers.values())).optimiser.param_groups[0]["lr"]
        return metrics | {"lr": lr, "steps_per_second": round(rate, 3)}

    def _spent(self) -> dict[str, float]:
        """What the run has cost up to now, evaluations of this step not yet among it."""
        self.clock.tick(self.counters)
        spent = {name: round(getattr(self.counters, name), 3) for name in ("cpu_seconds", "train_cpu_seconds")}
        return {"grad_evals": self.counters.grad_evals, **spent}

    def _validate(self) -> dict[str, float]:
        metrics = self.evaluate("val")
        monitor = next((m for m in MONITORS if m in metrics), None)
        if monitor and (self.counters.best is None or metrics[monitor] < self.counters.best):
            self.counters.best, self.counters.best_step = metrics[monitor], self.counters.step
            self.save(best=True)
        return {f"val/{name}": value for name, value in metrics.items()}

    def evaluate(self, split: str) -> dict[str, float]:
        """Run the evaluations that apply, on the averaged weights; their pictures go to the loggers. The energy is in
        eval mode, so that looking at it changes nothing that it keeps."""
        metrics: dict[str, float] = {}
        with self.clock.evaluating(self.counters), self.ema.applied(), frozen(self.objective.energy):
            for report in self.reports(split):
                metrics |= report.metrics
                for note in report.notes:
                    self.say_once(note)
                for image, picture in report.images.items():
                    for logger in self.loggers:
                        logger.image(image, picture, self.counters.step)
        return metrics

    def view(self, split: str) -> EvalView:
        """What an evaluation may look at, with random numbers of its own."""
        plan, log_z = self.schedule, self.objective.learnt_log_z()
        return EvalView(
            energy=self.objective.energy,
            dataset=self.dataset,
            split="val" if split == "val" else "test",
            sampler=self.sampler,
            count=plan.samples,
            steps=plan.sample_steps,
            temperature=plan.sample_temperature,
            generator=self.generator,
            sampling=self._stream(f"evaluation/{split}"),
            learnt_log_z=None if log_z is None else float(log_z.detach()),
            chains=self.objective.chains(),
        )

    def reports(self, split: str) -> Iterator[Report]:
        """The Report of each evaluation that applies; says once why the others do not."""
        view = self.view(split)
        for name in self.evaluators:
            report = self.report(name, view)
            if isinstance(report, Report):
                yield report
            else:
                self.say_once(f"evaluation '{name}' is left out: {report}", quiet=True)

    def report(self, name: str, view: EvalView) -> Report | str:
        """One evaluation, or the reason why it does not apply. Its random numbers depend on its name alone, and not on
        which others are done."""
        evaluator = self.evaluators[name]
        view.generator = self._stream(f"evaluation/{view.split}/{name}")
        return evaluator.applies(view) or evaluator(view)

    def _stream(self, purpose: str) -> Generator:
        return stream(self.schedule.seed, purpose, self.counters.step, self.generator.device)

    def say_once(self, line: str, quiet: bool = False) -> None:
        """Print a line the first time it comes; a quiet one is only kept for `said`."""
        if line not in self._said:
            self._said.add(line)
            if not quiet:
                self.say(line)

    @property
    def said(self) -> list[str]:
        return sorted(self._said)

    def parts(self) -> dict[str, Any]:
        """Everything with a `state_dict`, by its name in the checkpoint."""
        return {
            "objective": self.objective,
            "ema": self.ema,
            "meter": self.meter,
            "guard": self.guard,
            **{f"optimiser/{name}": o for name, o in self.optimisers.items()},
        }

    def content(self) -> dict[str, Any]:
        """The whole state, as a checkpoint holds it."""
        self.clock.tick(self.counters)
        return {name: part.state_dict() for name, part in self.parts().items()} | {
            "generator": self.generator.get_state(),
            "counters": vars(self.counters),
            "config": dict(self.config),
            "machine": checkpoint.machine(self.generator.device),
        }

    def save(self, *, best: bool = False, candidate: bool = False) -> None:
        """Write the checkpoint `last.pt` (or `best.pt`), as a candidate for `good.pt` if asked and if none waits."""
        if self.run is None:
            return
        step, before = self.counters.step, self.guard.candidate
        if candidate and before is None:
            self.guard.candidate = step
        try:
            checkpoint.save(self.run.best if best else self.run.last, self.content())
            if not best:
                self.keep_candidate()
                self.unsaved = None
        except OSError as problem:  # a full disk, say: training is worth more than this one checkpoint
            self.guard.candidate = before
            self.unsaved = str(problem)
            self.say(f"step {step}: checkpoint can't be written ({problem}); training goes on, the one before it stays")

    def keep_candidate(self) -> None:
        """Set `last.pt` aside if it is the candidate; a resumed run does so again, for a kill may have come between."""
        if self.run is not None and self.guard.candidate == self.counters.step:
            checkpoint.copy(self.run.last, self.run.candidate)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up the state that `content` returned."""
        lacking = sorted({*self.parts(), "generator", "counters"} - content.keys())
        if lacking:
            raise UserError(f"checkpoint without {', '.join(lacking)}: an earlier version wrote it")
        for name, part in self.parts().items():
            checkpoint.fill(part, content[name], name)
        self.generator.set_state(content["generator"].cpu())
        self.counters = Counters(**content["counters"])
