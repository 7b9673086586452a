"""Take back what a run has learnt: its energy, data set and config, from its directory."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ebm_lab.core.errors import NotRegistered, UserError
from ebm_lab.core.interfaces import Dataset, Sampler
from ebm_lab.core.places import moved
from ebm_lab.runs.assemble import assemble, import_plugins, pick_device
from ebm_lab.runs.isolation import isolated
from ebm_lab.runs.known_data import LOADED, same_data, way_out, without_rows
from ebm_lab.training import checkpoint
from ebm_lab.training.rundir import RunDir
from ebm_lab.training.trainer import Trainer


@dataclass(frozen=True)
class LoadedRun:
    """A run taken back from its directory: `energy` holds the weights asked for."""

    energy: nn.Module
    dataset: Dataset
    sampler: Sampler | None
    config: dict[str, Any]
    summary: dict[str, Any]
    trainer: Trainer
    path: Path


@isolated()
def load_run(
    path: str | Path,
    *,
    which: Literal["last", "best"] = "last",
    ema: bool = True,
    device: str = "cpu",
    plugins: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    dataset: Mapping[str, str | os.PathLike[str]] | None = None,
    data: Literal["same", "kept"] = "same",
) -> LoadedRun:
    """Load a run's energy, data set and config. Raises UserError where the data are gone or have changed.

    which: the last checkpoint or the best on the validation split; ema: averaged weights, or raw ones; plugins: the
    modules to import for the run's own components, none unless named here; evaluation: settings by name, instead of
    those that the run had; dataset: where the data lie now, {"path": ...} or {"root": ...}; data: `kept` does without
    data that are gone or have changed: `run.dataset` then has the place, size, bounds and transform that the run kept
    of them, and no rows.
    """
    run = RunDir.open(path, "run")
    place, own = pick_device(device), run.read_config()
    import_plugins(list(plugins))
    config = {**own, "device": device, "plugins": [], "resume": None, "init_from": None}
    if evaluation is not None:
        config["evaluation"] = dict(evaluation)
    config = moved(config, dataset or {})
    file = run.best if which == "best" else run.last
    content = checkpoint.of_run(run, file, place)
    try:
        trainer = _restored(config, content, file, keep=data == "kept" and not dataset)
    except NotRegistered as error:
        theirs = own.get("plugins")
        named = (
            f"; the run was made with plugins=[{','.join(theirs)}]: give that, if you trust its code" if theirs else ""
        )
        raise UserError(f"{error}{named}") from None
    checkpoint.same_config(content, config, file)
    if ema:
        torch._foreach_copy_([p.data for p in trainer.ema.parameters], trainer.ema.average)
    trainer.objective.eval()
    return LoadedRun(
        trainer.objective.energy, trainer.dataset, trainer.sampler, config, run.read_summary(), trainer, run.path
    )


def _restored(config: dict[str, Any], content: Mapping[str, Any], file: Path, keep: bool) -> Trainer:
    """The trained state on its own data; where those are gone or changed, on what the run kept of them if `keep`."""
    try:
        known = same_data(config, content, file)
    except NotRegistered:
        raise
    except UserError as error:
        checkpoint.same_config(content, config, file)
        if not keep:
            raise UserError(f"{error}{way_out(config, content, LOADED)}") from None
        return without_rows(config, content, file, str(error))
    trainer, _ = assemble(config, dataset=known)
    trainer.restore(content)
    return trainer
