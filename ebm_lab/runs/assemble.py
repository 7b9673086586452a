"""From a plain config to a built run: `assemble(config)` checks everything before anything is written or trained."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.interfaces import Dataset, Objective
from ebm_lab.core.places import absolute
from ebm_lab.core.random import seed_of, seeded, stream
from ebm_lab.core.registry import build
from ebm_lab.core.settings import check
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.runs.checks import check_data, check_fit, check_layout, check_parts, check_precision, probe
from ebm_lab.runs.data_record import SPLITS, DataRecord, fingerprints
from ebm_lab.training.batches import Batches
from ebm_lab.training.compile.policy import settle
from ebm_lab.training.compile.step import CompiledStep
from ebm_lab.training.distributed import Processes, local_rank
from ebm_lab.training.ema import EMA
from ebm_lab.training.gradients import Gradients, Precision
from ebm_lab.training.guard import Guard
from ebm_lab.training.trained import Schedule
from ebm_lab.training.trainer import Trainer

GROUPS = ("dataset", "energy", "objective", "sampler", "optim", "evaluation", "logger")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The root keys of `configs/train.yaml`, beside the groups; each is explained there."""

    seed: NonNegativeInt
    steps: PositiveInt
    batch_size: PositiveInt
    device: str
    threads: PositiveInt | Literal["auto"]
    max_seconds: PositiveFloat | None
    max_train: PositiveInt | None
    accumulate: PositiveInt
    precision: Precision
    channels_last: bool
    compile: Literal["auto", "on", "off"] | bool
    ema: NonNegativeFloat
    log_every: PositiveInt
    eval_every: PositiveInt
    checkpoint_every: PositiveInt
    samples: PositiveInt
    sample_steps: PositiveInt
    sample_temperature: PositiveFloat
    output_dir: str
    plugins: list[str]
    resume: str | None
    init_from: str | None


def run_settings(config: Mapping[str, Any]) -> RunSettings:
    """The root keys of `config`, checked."""
    root = {k: v for k, v in config.items() if k not in (*GROUPS, "guard")}
    settings = RunSettings(**check(RunSettings, root, ""))
    if settings.ema >= 1:
        raise UserError(f"ema={settings.ema}: must be less than 1")
    return settings


def import_plugins(names: list[str]) -> None:
    """Import the modules that register a user's own components."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            module = name.removesuffix(".py").replace("/", ".").strip(".")
            raise UserError(f"plugins=[{name}]: a module goes by its name, not by its file's; write plugins=[{module}]")
        refuse_hidden(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.split(".")[0] and error.name != name:
                raise
            raise UserError(f"plugins=[{name}]: no module of that name is importable from here") from None


def refuse_hidden(name: str) -> None:
    """Refuse a module of the working directory that Python does not find, for it has another of that name."""
    top = name.split(".")[0]
    mine = [file for file in (Path(f"{top}.py"), Path(top, "__init__.py")) if top and file.is_file()]
    if not mine:
        return
    found = sys.modules.get(top) or importlib.util.find_spec(top)
    origin = getattr(found, "__file__", None) or getattr(found, "origin", None) or ""
    if found is None or (os.path.exists(origin) and any(os.path.samefile(file, origin) for file in mine)):
        return
    raise UserError(
        f"plugins=[{name}]: by that name Python has {origin or 'a module of its own'}, which hides {mine[0]} here; "
        f"rename yours"
    )


def pick_device(name: str) -> torch.device:
    """auto: cuda where there is one, else cpu."""
    allowed = ("auto", "cpu", "cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in allowed:
        raise one_of("device", name, allowed)
    if name == "cuda" and os.environ.get("LOCAL_RANK"):
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name}: this machine has no such device; allowed here: auto, cpu") from None
    return device


def pick_threads(threads: int | str, dataset: Dataset) -> int:
    """auto: one where a sample has fewer than 512 numbers (too little work to share out), else up to four of its
    share of the cores."""
    if isinstance(threads, int):
        return threads
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, cores)) if dataset.mean.numel() >= 512 else 1


def assemble(
    config: Mapping[str, Any],
    processes: Processes = Processes(),  # noqa: B008 (it has no state)
    dataset: Dataset | None = None,
) -> tuple[Trainer, dict[str, Any]]:
    """Build a run from a plain config; returns it with the config in which every `auto` has its value and every path
    is absolute. dataset: the config's, where it is built already.

    Raises UserError, before any side effect beyond importing plugins, for whatever does not fit.
    """
    settings = run_settings(config)
    import_plugins(settings.plugins)
    device = pick_device(settings.device)
    dataset = build_dataset(config, settings, device) if dataset is None else dataset
    threads = pick_threads(settings.threads, dataset)
    torch.set_num_threads(threads)

    wiring: dict[str, Any] = {
        "dataset": dataset,
        "scale": dataset.scale,
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "output_dir": settings.output_dir,
        "generator": stream(settings.seed, "objective", 0, device),
    }
    wiring["energy"] = energy = build_energy(config, settings, wiring, device)
    chosen = (config.get("sampler") or {}).get("name", "none")  # a recipe may have left settings without a name
    wiring["sampler"] = sampler = None if chosen == "none" else build("sampler", config["sampler"], **wiring)
    check_fit(energy, sampler, dataset, config, settings.sample_temperature)
    probe(energy, dataset, config)
    objective: Objective = build("objective", config.get("objective") or {}, **wiring).to(device)
    check_parts(objective, settings.batch_size, settings.accumulate, processes.world)
    check_precision(objective, sampler, config)
    processes.share(objective)
    if not processes.first:  # what was built before is the same for all; what is drawn from here on, its own
        wiring["generator"].manual_seed(seed_of(settings.seed, processes.own("objective")))

    players = objective.players()
    optim = {n: build("optim", config.get("optim") or {}, parameters=p, **wiring) for n, p in players.items()}
    evaluators = {
        name: build("evaluation", values, f"evaluation.{name}", **wiring)
        for name, values in (config.get("evaluation") or {}).items()
    }
    plan = {k: getattr(settings, k) for k in Schedule.__dataclass_fields__}
    chosen = {"objective": objective.chosen, "energy": {}}
    if isinstance(energy, NoiseLevels):
        chosen["energy"], objective.notes = energy.chosen, [*energy.notes, *objective.notes]
    batches = Batches(dataset, settings.batch_size, settings.seed, settings.accumulate, processes.rank, processes.world)
    served = settings.accumulate == 1 and settings.precision == "float32" and processes.world == 1
    compiling = served and settle(settings.compile, settings.steps, objective, lambda: batches(1)[0])
    if not served and settings.compile in ("on", True):
        objective.notes.append("compile: off, for it takes accumulate=1, precision=float32 and one process")
    settled = {"threads": threads, "compile": "on" if compiling else "off"}
    resolved = absolute({**config, **settled} | {g: {**config[g], **values} for g, values in chosen.items()})
    trainer = Trainer(
        objective=objective,
        optimisers=optim,
        ema=EMA([p for ps in players.values() for p in ps], settings.ema),
        dataset=dataset,
        batches=batches,
        gradients=Gradients(objective, processes, settings.precision),
        processes=processes,
        sampler=sampler,
        evaluators=evaluators,
        generator=wiring["generator"],
        guard=build_guard(config, dataset),
        schedule=Schedule(**plan),
        config=resolved,
        chosen={f"{g}.{name}": value for g, values in chosen.items() for name, value in values.items()},
    )
    if compiling:
        trainer.compiled = CompiledStep(objective, optim, trainer.ema, trainer.say_once)
    return trainer, resolved


def build_dataset(config: Mapping[str, Any], settings: RunSettings, device: torch.device) -> Dataset:
    """The data set on `device`, cut to `max_train`; refuses data that nothing can be learnt from."""
    dataset: Dataset = build("dataset", config.get("dataset") or {})
    rows, digests = {s: len(getattr(dataset, s)) for s in SPLITS}, fingerprints(dataset)
    if settings.max_train is not None:
        dataset.train = dataset.train[: settings.max_train]
        if dataset.labels:
            dataset.labels["train"] = dataset.labels["train"][: settings.max_train]
    dataset = dataset.to(device)
    check_data(dataset, config)
    dataset.record = DataRecord.of(dataset, rows, digests)
    return dataset


def build_guard(config: Mapping[str, Any], dataset: Dataset) -> Guard:
    """The guard, told whether the chains are cold, or at another temperature than 1."""
    sampler = config.get("sampler") or {}
    cold = sampler.get("noise_scale", 1.0) != 1.0
    tempered = cold or sampler.get("temperature", 1.0) != 1.0
    return Guard(dataset, cold, tempered, **check(Guard, config.get("guard") or {}, "guard"))


def build_energy(
    config: Mapping[str, Any], settings: RunSettings, wiring: Mapping[str, Any], device: torch.device
) -> nn.Module:
    """The energy on `device`; its initial weights depend on the seed alone."""
    with seeded(seed_of(settings.seed, "energy"), device):
        energy: nn.Module = build("energy", config.get("energy") or {}, **wiring).to(device)
    if settings.channels_last:
        check_layout(energy, config["energy"]["name"])
        energy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stubs lack it)
    return energy
