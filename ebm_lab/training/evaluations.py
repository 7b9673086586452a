"""The evaluations of a run: what they see, and what each reports."""

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
    """What an evaluation raised, in one line."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How evaluations draw samples: `count` of them, by `steps` sampler steps from noise, at `temperature`."""

    count: int
    steps: int
    temperature: float


@dataclass(kw_only=True)
class Evaluations:
    """The evaluations of a run, by name, with what they look at. `generator`: its device is where they draw."""

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
        """The metrics that may choose the best checkpoint, on the validation split: the first that is reported does,
        and a run keeps to it."""
        return metrics().monitors

    def view(self, split: Literal["val", "test"], step: int) -> EvalView:
        """What an evaluation after training step `step` may look at, with random numbers of its own."""
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
            share=Share(self.processes.world, self.processes.join_rows),
        )

    def reports(self, split: Literal["val", "test"], step: int) -> dict[str, Report | str | Failure]:
        """Return by name each evaluation's Report, or why it does not apply, or how it failed; each process does its
        part of them."""
        view, names = self.view(split, step), list(self.evaluators)
        done = self.processes.gather({name: self.attempt(name, view) for name in self.dealt(view)})
        return {name: done[i % len(done)][name] for i, name in enumerate(names)}

    def dealt(self, view: EvalView) -> list[str]:
        """Return the evaluations that this process does, once all processes have drawn their share of the samples."""
        names = list(self.evaluators)
        if self.processes.world > 1 and names and self.sampler is not None:
            view.trajectory  # noqa: B018 (drawn on first use)
        return names[self.processes.rank :: self.processes.world]

    def report(self, name: str, view: EvalView) -> Report | str:
        """Do one evaluation; returns its finite numbers, or the reason why it does not apply. Its random numbers depend
        on its name alone, and not on which others are done."""
        evaluator = self.evaluators[name]
        view.generator = self._stream(f"evaluation/{view.split}/{name}", view.step)
        reason = reason_against(evaluator, view)
        return evaluator(view).finite(name) if reason is None else reason

    def attempt(self, name: str, view: EvalView) -> Report | str | Failure:
        """Do one evaluation; whatever it raises costs its own numbers alone, but for a divergence."""
        try:
            return self.report(name, view)
        except Diverged:
            raise
        except Exception as error:
            return Failure(" ".join(f"{type(error).__name__}: {error}".split()))

    def _stream(self, purpose: str, step: int) -> Generator:
        return stream(self.seed, purpose, step, self.generator.device)
