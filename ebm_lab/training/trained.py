"""A model with its data: what evaluations see of it, and the state that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator

from ebm_lab.core.errors import Diverged, UserError
from ebm_lab.core.eval_view import Evaluator, EvalView, Report, Share
from ebm_lab.core.interfaces import Dataset, Objective, Sampler
from ebm_lab.core.random import stream
from ebm_lab.training import checkpoint
from ebm_lab.training.costs import Clock, Counters
from ebm_lab.training.distributed import Processes, all_equal
from ebm_lab.training.ema import EMA
from ebm_lab.training.guard import Guard
from ebm_lab.training.meter import Meter
from ebm_lab.training.optimiser import Optimiser


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


@dataclass(frozen=True)
class Failure:
    """What an evaluation raised, in one line."""

    text: str


@dataclass(kw_only=True)
class Trained:
    """Everything that a run has learnt, and what it is judged by."""

    objective: Objective
    optimisers: dict[str, Optimiser]
    ema: EMA
    dataset: Dataset
    sampler: Sampler | None
    evaluators: dict[str, Evaluator]
    generator: Generator
    guard: Guard
    schedule: Schedule
    config: Mapping[str, Any]
    processes: Processes = field(default_factory=Processes)
    meter: Meter = field(default_factory=Meter)
    counters: Counters = field(default_factory=Counters)
    clock: Clock = field(default_factory=Clock)

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
            sampling=self._stream(self.processes.own(f"evaluation/{split}")),
            learnt_log_z=None if log_z is None else float(log_z.detach()),
            chains=self.objective.chains(),
            share=Share(self.processes.world, self.processes.join_rows),
        )

    def reports(self, split: str) -> dict[str, Report | str | Failure]:
        """The Report of each evaluation, or the reason why it does not apply, or how it failed; each process does its
        part of them."""
        view, names = self.view(split), list(self.evaluators)
        done = self.processes.gather({name: self.attempt(name, view) for name in self.dealt(view)})
        return {name: done[i % len(done)][name] for i, name in enumerate(names)}

    def dealt(self, view: EvalView) -> list[str]:
        """The evaluations that this process does, once all have drawn their share of the samples."""
        names = list(self.evaluators)
        if self.processes.world > 1 and names and self.sampler is not None:
            view.film  # noqa: B018 (drawn on first use)
        return names[self.processes.rank :: self.processes.world]

    def report(self, name: str, view: EvalView) -> Report | str:
        """One evaluation's finite numbers, or the reason why it does not apply. Its random numbers depend on its name
        alone, and not on which others are done."""
        evaluator = self.evaluators[name]
        view.generator = self._stream(f"evaluation/{view.split}/{name}")
        reason = evaluator.applies(view)
        return evaluator(view).finite(name) if reason is None else reason

    def attempt(self, name: str, view: EvalView) -> Report | str | Failure:
        """The same; whatever an evaluation raises costs its own numbers alone, but for a divergence."""
        try:
            return self.report(name, view)
        except Diverged:
            raise
        except Exception as error:
            return Failure(" ".join(f"{type(error).__name__}: {error}".split()))

    def _stream(self, purpose: str) -> Generator:
        return stream(self.schedule.seed, purpose, self.counters.step, self.generator.device)

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
        """The whole state of all processes, as a checkpoint holds it: the first one's, chains put together, and what
        each has of its own."""
        self.clock.tick(self.counters)
        if not all_equal(list(self.objective.parameters()), self.processes):
            raise Diverged("the processes' parameters are no longer the same: their gradients were not averaged")
        content = {name: part.state_dict() for name, part in self.parts().items()}
        for name in self.objective.rows:
            content["objective"][name] = self.processes.join_rows(content["objective"][name])
        return content | {
            "generator": self.generator.get_state(),
            "counters": vars(self.counters),
            "processes": self.processes.gather(self._own()),
            "config": dict(self.config),
            **({} if self.dataset.record is None else {"data": dict(vars(self.dataset.record))}),
            "machine": checkpoint.machine(self.generator.device),
        }

    def _own(self) -> dict[str, Any]:
        """What each process has of its own, chains aside; of one process, all is in its place."""
        if self.processes.world == 1:
            return {}
        kept = {name: value.cpu() for name, value in self.objective.sampler_state.items()}
        meter = self.meter.state_dict()
        meter["sums"] = [x.cpu() for x in meter["sums"]]
        own = {"generator": self.generator.get_state(), "sampler_state": kept, "meter": meter}
        return own | {"counters": vars(self.counters)}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up the state that `content` returned."""
        lacking = sorted({*self.parts(), "generator", "counters"} - content.keys())
        if lacking:
            raise UserError(f"checkpoint without {', '.join(lacking)}: an earlier version wrote it")
        content = dict(content)
        if self.processes.world > 1:
            self._take(content, content["processes"][self.processes.rank])
        for name, part in self.parts().items():
            checkpoint.fill(part, content[name], name)
        self.generator.set_state(content["generator"].cpu())
        self.counters = Counters(**content["counters"])

    def _take(self, content: dict[str, Any], own: Mapping[str, Any]) -> None:
        """Put this process's `own` state in the place of the first one's."""
        device, objective = self.generator.device, dict(content["objective"])
        objective |= {name: self.processes.own_rows(objective[name]) for name in self.objective.rows}
        objective["_extra_state"] = {name: value.to(device) for name, value in own["sampler_state"].items()}
        meter = own["meter"] | {"sums": [x.to(device) for x in own["meter"]["sums"]]}
        content |= {"objective": objective, "meter": meter, "generator": own["generator"], "counters": own["counters"]}
