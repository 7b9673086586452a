"""Check the root keys of a run's config; import its plugins; choose its device and threads."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import GROUPS
from ebm_lab.core.settings import check
from ebm_lab.datasets._preprocessed import How
from ebm_lab.training.distributed import local_rank
from ebm_lab.training.numerics import Deterministic, Precision


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The root keys of `configs/train.yaml`, beside the groups; each is explained there."""

    seed: NonNegativeInt
    steps: NonNegativeInt
    batch_size: PositiveInt
    device: str
    threads: PositiveInt | Literal["auto"]
    max_seconds: PositiveFloat | None
    max_train: PositiveInt | None
    preprocess: How
    accumulate: PositiveInt
    precision: Precision
    deterministic: Deterministic
    channels_last: bool
    compile: Literal["auto", "cached", "graphs", "on", "off"] | bool
    runs_alike: PositiveInt
    ema: NonNegativeFloat
    early_stopping: Literal["auto", "on", "off"] | bool
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
    """Check the root keys of `config` and return them."""
    root = {k: v for k, v in config.items() if k not in GROUPS}
    settings = RunSettings(**check(RunSettings, root, ""))
    if settings.ema >= 1:
        raise UserError(f"ema={settings.ema}: must be less than 1")
    return settings


def import_plugins(names: list[str]) -> None:
    """Import the modules that register a user's own components."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            module = name.removesuffix(".py").replace("/", ".").strip(".")
            raise UserError(f"plugins=[{name}]: give the module's name, not its file; write plugins=[{module}]")
        refuse_hidden(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.split(".")[0] and error.name != name:
                raise
            raise UserError(f"plugins=[{name}]: no module of that name is importable from here") from None


def refuse_hidden(name: str) -> None:
    """Reject a module of the working directory that is hidden by another one of the same name."""
    top = name.split(".")[0]
    mine = [file for file in (Path(f"{top}.py"), Path(top, "__init__.py")) if top and file.is_file()]
    if not mine:
        return
    found = sys.modules.get(top) or importlib.util.find_spec(top)
    origin = getattr(found, "__file__", None) or getattr(found, "origin", None) or ""
    if found is None or (os.path.exists(origin) and any(os.path.samefile(file, origin) for file in mine)):
        return
    raise UserError(
        f"plugins=[{name}]: Python finds {origin or 'a module of its own'} under that name, which hides {mine[0]} "
        f"here; rename yours"
    )


def pick_device(name: str) -> torch.device:
    """Return the torch device; `auto` is cuda if available, else cpu."""
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
    """Return the number of threads; `auto` is one if a sample has fewer than 512 numbers (too little work to divide),
    else up to four of this process's share of the cores."""
    if isinstance(threads, int):
        return threads
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, cores)) if dataset.mean.numel() >= 512 else 1
