"""The parts of a run: data set, energy, sampler, objective and evaluations, built from a config and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, nn

from ebm_lab.core.choice import Choice
from ebm_lab.core.eval_view import Evaluator
from ebm_lab.core.interfaces import Dataset, Objective, Sampler
from ebm_lab.core.maps import Composed
from ebm_lab.core.places import absolute
from ebm_lab.core.random import seed_of, seeded, stream
from ebm_lab.core.registry import build, parse
from ebm_lab.datasets._preprocessed import for_run, unrounded
from ebm_lab.datasets._training_labels import few_labels, number_classes
from ebm_lab.runs.checks import check_card, check_data, check_layout, check_parts, check_precision, probe
from ebm_lab.runs.compatibility import check_fit
from ebm_lab.runs.data_record import SPLITS, DataRecord, fingerprints
from ebm_lab.runs.settings import RunSettings, import_plugins, pick_device, pick_threads, run_settings
from ebm_lab.training.distributed import Processes
from ebm_lab.training.evaluations import Evaluations, Sampling
from ebm_lab.training.floats import flush_denormals
from ebm_lab.training.numerics import fix_workspace


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of a run.

    config: the given config with absolute paths and with values in place of every `auto` that the parts resolve;
    resolved: those values by their full keys; wiring: arguments that constructors may ask for, by name; generator: the
    objective's random stream; evaluation_sampler: the training's sampler unless the config names another.
    """

    settings: RunSettings
    config: dict[str, Any]
    dataset: Dataset
    energy: nn.Module
    sampler: Sampler | None
    evaluation_sampler: Sampler | None
    objective: Objective
    evaluators: dict[str, Evaluator]
    generator: Generator
    processes: Processes
    wiring: dict[str, Any]
    resolved: dict[str, float | str]

    @property
    def evaluations(self) -> Evaluations:
        """The evaluations, bound to this run's objective, data set and sampler."""
        s = self.settings
        return Evaluations(
            evaluators=self.evaluators,
            objective=self.objective,
            dataset=self.dataset,
            sampler=self.evaluation_sampler,
            sampling=Sampling(count=s.samples, steps=s.sample_steps, temperature=s.sample_temperature),
            seed=s.seed,
            generator=self.generator,
            processes=self.processes,
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters of all players, in the order of their averages in a checkpoint."""
        return [p for parameters in self.objective.players().values() for p in parameters]


def build_parts(
    config: Mapping[str, Any],
    processes: Processes = Processes(),  # noqa: B008 (it has no state)
    dataset: Dataset | None = None,
) -> Parts:
    """Build the parts of a run from a plain config. dataset: the config's data set if it is built already.

    Raises UserError if parts do not fit together; until then the only side effect is the import of plugins.
    """
    settings = run_settings(config)
    import_plugins(settings.plugins)
    check_card(settings.device, processes.world)
    device = pick_device(settings.device)
    fix_workspace(settings.deterministic, device)
    dataset = build_dataset(config, settings, device) if dataset is None else dataset
    threads = pick_threads(settings.threads, dataset)
    torch.set_num_threads(threads)
    flush_denormals()

    wiring: dict[str, Any] = {
        "dataset": dataset,
        "scale": dataset.scale,
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "output_dir": settings.output_dir,
        "generator": stream(settings.seed, "objective", 0, device),
        "compose": _compose,
    }
    choices = parse_choices(config)
    if "labels" in (choices["energy"].offers or ()):
        number_classes(dataset)
        if dataset.record is not None:
            dataset.record = replace(dataset.record, class_names=dataset.class_names)
    check_fit(choices, dataset, settings.sample_temperature)
    wiring["energy"] = energy = build_energy(choices["energy"], settings, wiring, device)
    wiring["sampler"] = sampler = choices["sampler"].build(**wiring) if "sampler" in choices else None
    evaluation_sampler = choices["evaluation_sampler"].build(**wiring) if "evaluation_sampler" in choices else sampler
    built = {"energy": energy, "sampler": sampler, "evaluation_sampler": evaluation_sampler}
    check_fit(choices, dataset, settings.sample_temperature, built)
    probe(energy, dataset, config)
    objective: Objective = choices["objective"].build(**wiring).to(device)
    check_parts(objective, settings.batch_size, settings.accumulate, processes.world)
    check_precision(objective, sampler, config)
    processes.share(objective)
    if not processes.first:  # the parts above are equal in all processes; random draws from here on differ
        wiring["generator"].manual_seed(seed_of(settings.seed, processes.own("objective")))
    evaluators = {name: choices[f"evaluation.{name}"].build(**wiring) for name in config.get("evaluation") or {}}
    resolved = {"objective": objective.resolved, "energy": getattr(energy, "resolved", getattr(energy, "chosen", {}))}
    objective.notes = [*getattr(energy, "notes", ()), *objective.notes]
    settled = {group: _filled(config[group], values) for group, values in resolved.items()}
    return Parts(
        settings=settings,
        config=absolute({**config, "threads": threads, **settled}),
        dataset=dataset,
        energy=energy,
        sampler=sampler,
        evaluation_sampler=evaluation_sampler,
        objective=objective,
        evaluators=evaluators,
        generator=wiring["generator"],
        processes=processes,
        wiring=wiring,
        resolved={f"{group}.{key}": value for group, values in resolved.items() for key, value in values.items()},
    )


def _compose(*of: Any) -> tuple[nn.Module, list[str]]:
    from ebm_lab.runs.composed_energy import composed_energy  # which loads runs, and so needs this module

    return composed_energy(*of)


def _filled(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with these values, whose keys are paths for settings of nested components: 'generative.sigma'."""
    filled = dict(settings)
    for key, value in values.items():
        first, _, rest = key.partition(".")
        filled[first] = _filled(filled[first], {rest: value}) if rest else value
    return filled


def build_dataset(
    config: Mapping[str, Any], settings: RunSettings, device: torch.device, known: Composed | None = None
) -> Dataset:
    """Build the data set on `device`, cut to `max_train` rows, in the coordinates of `preprocess`.

    Rejects data that can't be trained on. known: the map to those coordinates, if it was fitted before.
    """
    values, few = few_labels(config.get("dataset") or {})
    dataset: Dataset = build("dataset", values)
    rows, digests = {s: len(getattr(dataset, s)) for s in SPLITS}, fingerprints(dataset)
    if settings.preprocess != "none":
        dataset = unrounded(dataset)
    dataset.precise = None
    if settings.max_train is not None:
        dataset.train = dataset.train[: settings.max_train]
        if dataset.labels:
            dataset.labels["train"] = dataset.labels["train"][: settings.max_train]
    if settings.preprocess != "none":
        check_data(dataset, config, scaled=False)
        dataset = for_run(dataset, settings.preprocess, known)
    few.hide(dataset, settings.seed)
    dataset = dataset.to(device)
    check_data(dataset, config)
    dataset.record = DataRecord.of(dataset, rows, digests)
    return dataset


def parse_choices(config: Mapping[str, Any]) -> dict[str, Choice]:
    """Check the settings of a run's energy, objective, evaluations and, if it has any, samplers."""
    choices = {kind: parse(kind, config.get(kind) or {}) for kind in ("energy", "objective")}
    for key in ("sampler", "evaluation_sampler"):
        if (config.get(key) or {}).get("name", "none") != "none":  # a recipe may have left settings without a name
            choices[key] = parse("sampler", config[key], key)
    for name, values in (config.get("evaluation") or {}).items():
        choices[f"evaluation.{name}"] = parse("evaluation", values, f"evaluation.{name}")
    return choices


def build_energy(choice: Choice, settings: RunSettings, wiring: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Build the energy on `device`; its initial weights depend on the seed alone."""
    with seeded(seed_of(settings.seed, "energy"), device):
        energy: nn.Module = choice.build(**wiring).to(device)
    if settings.channels_last:
        check_layout(energy, choice.name)
        energy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stubs lack it)
    return energy
