"""Run the evaluations: build the view that they look at, and collect their reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Generator

from ebm_lab.core.errors import Diverged
from ebm_lab.core.eval_view import Evaluator, EvalView, Report, Share, reason_against
from ebm_lab.core.interfaces import Batch, Dataset, Objective, Sampler
from ebm_lab.core.random import stream
from ebm_lab.core.registry import metrics
from ebm_lab.distributions.start import start_law
from ebm_lab.training.distributed import Processes


@dataclass(frozen=True)
class Failure:
    """The error that an evaluation raised, in one line."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How evaluations draw samples: `count` of them, by `steps` sampler steps from noise, at `temperature`."""

    count: int
    steps: int
    temperature: float


@dataclass(kw_only=True)
class Evaluations:
    """The evaluations of a run by name, with all that they look at. They draw on the device of `generator`."""

    evaluators: Mapping[str, Evaluator]
    objective: Objective
    dataset: Dataset
    sampler: Sampler | None
    sampling: Sampling
    seed: int
    generator: Generator
    processes: Processes = field(default_factory=Processes)

    @cached_property
    def monitors(self) -> list[str]:
        """The metrics that may select the best checkpoint on the validation split, in order of preference.

        The first of them that is reported is used, for the whole run.
        """
        return metrics().monitors

    def view(self, split: Literal["val", "test"], step: int) -> EvalView:
        """Return the view that an evaluation after training step `step` gets, with its own random numbers."""
        plan, log_z = self.sampling, self.objective.learnt_log_z()
        chains = self.objective.chains()
        x, y = chains if isinstance(chains, Batch) else (chains, None)
        return EvalView(
            energy=self.objective.model(),
            dataset=self.dataset,
            split=split,
            sampler=self.sampler,
            count=plan.count,
            steps=plan.steps,
            temperature=plan.temperature,
            step=step,
            generator=self.generator,
            sampling=self._stream(self.processes.own(f"evaluation/{split}"), step),
            learnt_log_z=None if log_z is None else float(log_z.detach()),
            start=start_law(self.dataset),
            origin=self.objective.origin(),
            chains=x,
            chain_labels=y,
            blur=self.objective.learnt_blur(),
            objective=self.objective,
            share=Share(self.processes.world, self.processes.join_rows),
        )

    def reports(self, split: Literal["val", "test"], step: int) -> dict[str, Report | str | Failure]:
        """Return for each evaluation, by name, its Report, the reason why it does not apply, or its Failure.

        The evaluations are divided among the processes.
        """
        view, names = self.view(split, step), list(self.evaluators)
        done = self.processes.gather({name: self.attempt(name, view) for name in self.dealt(view)})
        return {name: done[i % len(done)][name] for i, name in enumerate(names)}

    def dealt(self, view: EvalView) -> list[str]:
        """Return the names of the evaluations for this process, after drawing this process's share of the samples."""
        names = list(self.evaluators)
        if self.processes.world > 1 and names and self.sampler is not None:
            view.trajectory  # noqa: B018 (drawn on first use)
        return names[self.processes.rank :: self.processes.world]

    def report(self, name: str, view: EvalView) -> Report | str:
        """Run one evaluation; returns its finite numbers, or the reason why it does not apply.

        Its random numbers depend on its own name, not on which other evaluations are run.
        """
        evaluator = self.evaluators[name]
        view.generator = self._stream(f"evaluation/{view.split}/{name}", view.step)
        reason = reason_against(evaluator, view)
        return evaluator(view).finite(name) if reason is None else reason

    def attempt(self, name: str, view: EvalView) -> Report | str | Failure:
        """Run one evaluation; any error but Diverged becomes a Failure, so that the other evaluations still run."""
        try:
            return self.report(name, view)
        except Diverged:
            raise
        except Exception as error:
            return Failure(" ".join(f"{type(error).__name__}: {error}".split()))

    def _stream(self, purpose: str, step: int) -> Generator:
        return stream(self.seed, purpose, step, self.generator.device)
