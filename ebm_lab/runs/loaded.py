"""A run loaded from its directory: samples, scores and log-densities, in the units of the raw data."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.derived import Guided
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import Report
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import evaluate, in_parts, known_log_z
from ebm_lab.core.interfaces import Dataset, Energy, Objective, Sampler
from ebm_lab.core.maps import raw_score
from ebm_lab.core.random import stream
from ebm_lab.core.registry import build
from ebm_lab.core.transforms import Affine
from ebm_lab.models.levels import data_score
from ebm_lab.runs import shown
from ebm_lab.runs.defaults import evaluation_settings
from ebm_lab.runs.isolation import isolated
from ebm_lab.runs.parts import Parts
from ebm_lab.training.evaluations import Evaluations


class LogZ(NamedTuple):
    """log Z in nats, its error, and its source: formula, quadrature, enumeration of all points, learnt or ais.

    The error is 0 for a formula or an enumeration, a bound for quadrature, a standard error for AIS and nan (unknown)
    if log Z is learnt.
    """

    value: float
    error: float
    source: str


class Classes(NamedTuple):
    """label: (B,) the most probable class; probabilities: (B, K) p(y | x); names: of the classes, if they have any."""

    label: Tensor
    probabilities: Tensor
    names: list[str] | None


class LogDensity(NamedTuple):
    """values: (B,) log p(x) in nats; log_z: the log Z that was used, whose error all values share."""

    values: Tensor
    log_z: LogZ


class LoadedRun:
    """A trained run.

    `energy` holds the weights asked for, in eval mode; `dataset` and `objective` are its parts; `sampler` draws its
    samples; `config` and `summary` come from its directory; `content` is its checkpoint. `sample`, `score` and
    `log_prob` use raw units, those of the data before the data set's transform; raw=False uses the space in which the
    energy sees the data.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        config: dict[str, Any],
        summary: dict[str, Any],
        path: Path,
        content: Mapping[str, Any],
        averaged: bool,
    ) -> None:
        self.parts, self.config, self.summary, self.path = parts, config, summary, path
        self.content, self.averaged = content, averaged
        self.energy: nn.Module = parts.objective.model()
        self.dataset: Dataset = parts.dataset
        self.sampler: Sampler | None = parts.evaluation_sampler
        self.objective: Objective = parts.objective
        self.evaluations: Evaluations = parts.evaluations

    def __repr__(self) -> str:
        return shown.text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the facts, a picture of the model and its metrics."""
        return shown.html(self)

    @property
    def step(self) -> int:
        """The training step of the checkpoint."""
        return int(self.content["counters"]["step"])

    @cached_property
    def _draws(self) -> Generator:
        return stream(0, "sample", 0, self.parts.generator.device)

    @isolated()
    def sample(
        self,
        n: int,
        generator: Generator | None = None,
        *,
        steps: int | None = None,
        temperature: float | None = None,
        raw: bool = True,
        y: int | str | None = None,
        guidance: float = 0.0,
    ) -> Tensor:
        """Draw n samples, (n, *shape), by the run's sampler, starting from noise; of the class y, its number or name,
        if it is given: from p(x | y), or p(x | y) p(y | x)^guidance (core/derived.py, Guided).

        generator: on the run's device; without one, each call continues a stream that is the same in every process.
        steps, temperature: of the sampler; the run's own by default. Raises UserError if the run has no sampler, if
        they are given for a sampler that goes through noise levels by its own settings, and for a class that the model
        does not have.
        """
        if self.sampler is None:
            raise UserError(f"run={self.path}: it has no sampler to draw samples with")
        self.check_sampling(steps=steps, temperature=temperature)
        if guidance and y is None:
            raise UserError(f"guidance={guidance:g}: sharpens a class: give y too")
        if guidance < 0:
            raise UserError(f"guidance={guidance:g}: must be at least 0")
        plan = self.evaluations.sampling
        view = replace(
            self.evaluations.view("test", self.step),
            count=n,
            steps=steps or plan.steps,
            temperature=temperature or plan.temperature,
            sampling=generator or self._draws,
            **({} if y is None else {"energy": self._of_class(y, guidance)}),
        )
        return self._out(view.samples.cpu(), raw)

    def _labelled(self) -> Energy:
        """The energy, if it has class labels."""
        if "labels" not in features_of(self.energy):
            raise UserError(f"run={self.path}: its model has no class labels")
        return cast(Energy, self.energy)

    def _of_class(self, y: int | str, guidance: float) -> nn.Module:
        """Return the energy of the points of class y, guided towards what only this class has."""
        energy, names = self._labelled(), self.dataset.class_names or []
        classes = energy.logits(self.dataset.mean.unsqueeze(0)).shape[1]
        number = names.index(y) if y in names else y
        if not isinstance(number, int) or not 0 <= number < classes:
            called = f", or one of {', '.join(names)}" if names else ""
            raise UserError(f"y={y}: must be a class number from 0 to {classes - 1}{called}")
        label = torch.tensor(number, device=self.dataset.mean.device)
        return Guided(energy, label, guidance) if guidance else energy.given(y=label)

    @isolated()
    def classify(self, x: Tensor, *, raw: bool = True) -> Classes:
        """Compute p(y | x) = softmax_y(-E(x, y)) of each class at x (B, *shape).

        Raises UserError for a model without class labels.
        """
        energy = self._labelled()
        with torch.no_grad():
            p = in_parts(lambda part: energy.logits(part), self._in(x, raw), 4096).softmax(1)
        return Classes(p.argmax(1), p, self.dataset.class_names)

    def check_sampling(self, **given: float | None) -> None:
        """Reject steps and temperatures for a sampler that goes through noise levels by its own settings."""
        if self.sampler is None or "stationary" in features_of(self.sampler):
            return
        for key, value in given.items():
            if value is not None:
                name = (self.config.get("evaluation_sampler") or self.config["sampler"])["name"]
                raise UserError(
                    f"{key}={value}: sampler '{name}' goes down the model's noise levels by its own settings"
                )

    @isolated()
    def score(self, x: Tensor, *, raw: bool = True) -> Tensor:
        """Compute the model's score grad_x log p(x) at x (B, *shape); returns (B, *shape), detached.

        A model of many noise levels is taken at the lowest. In raw units the score is grad_raw log p_raw(raw) with
        log p_raw(raw) = log p(x) + log |dx / draw|: score(x) / scale for x = (raw - shift) / scale.
        """
        if not raw:
            return data_score(self.energy, self._in(x, raw)).detach()
        like, transform = self.dataset.mean, self.dataset.transform
        return raw_score(transform, self._exact(x), lambda x: data_score(self.energy, x.to(like))).to(like)

    @isolated()
    def log_prob(self, x: Tensor, *, raw: bool = True, log_z: LogZ | None = None) -> LogDensity:
        """Compute log p(x) = -E(x) - log Z in nats at x (B, *shape).

        In raw units it is log p_raw(raw) = log p(x) + log |dx / draw|. log Z comes from the energy's formula, from
        quadrature in one and two dimensions, from the objective if it learns log Z, or from annealed importance
        sampling, or is the one given. Raises UserError for a model without an energy.
        """
        log_z = self.log_z if log_z is None else log_z
        z = self._in(x, raw)
        with torch.no_grad():
            values = -in_parts(lambda part: evaluate(self.energy, part), z, 65_536).double() - log_z.value
        jump = self.dataset.transform.log_det_at(z).to(values) if raw else 0.0
        return LogDensity(values + jump, log_z)

    @cached_property
    def log_z(self) -> LogZ:
        """log Z of the energy in the space in which it sees the data, computed once."""
        from ebm_lab.evaluation.likelihood import exact_log_z

        view = self.evaluations.view("test", self.step)
        if not view.has("energy"):
            why = "a score network has no energy, so no log Z; its likelihood is run.evaluate('flow_likelihood')"
            raise UserError(f"run={self.path}: {why}")
        known = exact_log_z(view, evaluation_settings("likelihood", self.config)["cells"])
        if known is not None:
            if known.trouble is not None:
                raise UserError(f"run={self.path}: no log Z: {known.trouble}")
            summed = "quadrature" if self.dataset.space == "continuous" else "enumeration"
            source = summed if known_log_z(self.energy) is None else "formula"
            return LogZ(known.value, max(known.bound, known.change), source)
        if view.learnt_log_z is not None:
            return LogZ(view.learnt_log_z, float("nan"), "learnt")
        found = self.evaluate("ais").metrics
        return LogZ(found["ais_log_z"], found["ais_log_z_se"], "ais")

    @isolated()
    def evaluate(self, name: str, **settings: Any) -> Report:
        """Run one evaluation on the test split; return its metrics, pictures and notes.

        settings: override the run's own, or those in configs/evaluation/<name>.yaml. Raises UserError, with the reason,
        if the evaluation does not apply to this run.
        """
        values = {**evaluation_settings(name, self.config), **settings}
        evaluator = build("evaluation", values, f"evaluation.{name}", **self.parts.wiring)
        mine = replace(self.evaluations, evaluators={name: evaluator})
        view = mine.view("test", self.step)
        view.averaged = self.averaged
        report = mine.report(name, view)
        if isinstance(report, str):
            raise UserError(f"evaluation={name}: left out, {report}")
        return report

    def _in(self, x: Tensor, raw: bool) -> Tensor:
        if not raw:
            return x.to(self.dataset.mean)
        return self.dataset.transform.forward(self._exact(x)).to(self.dataset.mean)

    def _exact(self, raw: Tensor) -> Tensor:
        """Raw data in the precision and on the device of the map."""
        transform = self.dataset.transform
        return raw.to(transform.shift) if isinstance(transform, Affine) else raw.cpu().double()

    def _out(self, x: Tensor, raw: bool) -> Tensor:
        return self.dataset.transform.inverse(x) if raw else x
