"""Checkpoints: complete, atomic, and loadable without running code."""

import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import write_atomic
from ebm_lab.core.places import places_of
from ebm_lab.core.settings import flat
from ebm_lab.core.streams import safe_streams
from ebm_lab.training.costs import Counters
from ebm_lab.training.ema import EMA

FORMAT = 1
"""Version of the format of checkpoints and run directories; see docs/format.md."""
KINDS = {"counters": dict, "machine": dict, "config": dict, "generator": Tensor}
TRAINED = ("dataset", "energy", "objective", "sampler", "optim", "seed", "batch_size", "ema", "max_train", "preprocess")
"""Keys of a config that determine the trained state; resuming may not change them."""
PLACES = ("dataset.root", "dataset.path", "dataset.download")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` always holds either the complete old one or the complete new one.

    Raises OSError, and leaves the old checkpoint in place, if the new one cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_atomic(path, buffer.getbuffer())


def copy(source: Path, target: Path) -> None:
    """Replace `target` by the present content of `source`, atomically.

    A hard link suffices where the file system has them, because `save` never writes into an existing file.
    """
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # os.replace leaves it if both are links to one file


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`. Raises UserError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickles that it did not write
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes can make the reader raise anything
        raise UserError(f"{path}: not a readable checkpoint ({_reason(error)})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: checkpoint format {found}, and this version reads format {FORMAT}")
    for name, kind in KINDS.items():
        if not isinstance(content.setdefault(name, {}) if name == "machine" else content.get(name, kind()), kind):
            raise UserError(f"{path}: not the checkpoint of a run, its '{name}' is a {type(content[name]).__name__}")
    unknown = sorted(map(str, content.get("counters", {}).keys() - {f.name for f in fields(Counters)}))
    if unknown:
        raise UserError(f"{path}: written by another version; this one does not know {', '.join(unknown)}")
    return content


def _reason(error: Exception) -> str:
    text = str(error)
    if code := re.search(r"unsupported global:? (?:global )?([\w.]+)", text, re.IGNORECASE):
        return f"it refers to {code.group(1)}, but a checkpoint runs no code"
    if fault := re.search(r"WeightsUnpickler error:\s*(.+)", text):
        return fault.group(1)[:60]
    return (text.splitlines() or [type(error).__name__])[0][:60]


def same_config(content: Mapping[str, Any], config: Mapping[str, Any], path: object) -> None:
    """Raise UserError if the checkpoint has a config other than `config`; only the data's location may differ."""
    there, here = (flat({k: c[k] for k in TRAINED if k in c}) for c in (content.get("config", {}), config))
    places = {f"{g}.{k}" for g in TRAINED if isinstance(c := config.get(g), dict) for k in places_of(g, c.get("name"))}
    for key in sorted((there.keys() & here.keys()) - {*PLACES, *places}):
        if there[key] != here[key]:
            raise UserError(
                f"{path}: the checkpoint has another config: {key} is {there[key]} there and {here[key]} in "
                f"config.yaml; restore that value, or start a new run from the weights with init_from"
            )


def fill(part: Any, state: Any, name: str) -> None:
    """Load `state` into `part`. Raises UserError if it does not fit, as in a run whose config was edited."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        lines = [line.strip() for line in (str(error) or type(error).__name__).splitlines()]
        raise UserError(
            f"checkpoint does not fit its config: {name}: {lines[1 if len(lines) > 1 else 0][:160]}"
        ) from None


def scales(model: nn.Module) -> dict[str, float]:
    """Return the scale of each part of a model that has one, in data units, by the part's name. Another run's weights
    bring the scale of that run's data along (init_from), which no tensor holds."""
    found = {name: getattr(part, "scale", None) for name, part in model.named_modules()}
    return {name: scale for name, scale in found.items() if isinstance(scale, float)}


def set_scales(model: nn.Module, found: Mapping[str, float]) -> None:
    """Give the parts of a model that have these names these scales."""
    parts: dict[str, Any] = dict(model.named_modules())
    for name in parts.keys() & found.keys():
        parts[name].scale = found[name]


def fill_model(objective: Any, content: Mapping[str, Any]) -> None:
    """Load an objective and its energy, with the scales of the energy; an early checkpoint has none of these."""
    fill(objective, content["objective"], "objective")
    set_scales(objective.energy, content.get("scales", {}))


def check_whole(content: Mapping[str, Any], players: Iterable[str]) -> None:
    """Raise UserError if the checkpoint lacks a part that a run with these players needs."""
    parts = ("objective", "ema", "meter", "guard", "generator", "counters", *(f"optimiser/{p}" for p in players))
    missing = sorted(part for part in parts if part not in content)
    if missing:
        raise UserError(f"checkpoint without {', '.join(missing)}: it was written by an earlier version")


def take_average(parameters: list[nn.Parameter], content: Mapping[str, Any]) -> None:
    """Set parameters to the averages in a checkpoint. Raises UserError if they do not fit."""
    ema = EMA(parameters, 0.0)
    fill(ema, content["ema"], "ema")
    with torch.no_grad():
        torch._foreach_copy_(ema.parameters, ema.average)


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine, as far as bit-exact resuming depends on it; `card`: the name of a CUDA device."""
    found = {"threads": torch.get_num_threads(), "device": device.type, "torch": str(torch.__version__)}
    return found | ({"card": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def other_device(content: Mapping[str, Any], device: torch.device) -> bool:
    """Return whether the checkpoint was written on another type of device; one that does not say so was not."""
    return content["machine"].get("device", device.type) != device.type


def restore_generator(generator: torch.Generator, content: Mapping[str, Any], seed: int) -> None:
    """Set the generator's state from a checkpoint, or seed it if the checkpoint is of another type of device.

    The state of a CPU's generator has 5,056 bytes and that of CUDA's 16, and neither holds the other's numbers. Raises
    UserError if the state does not fit although the type is the same.
    """
    if other_device(content, generator.device):
        generator.manual_seed(seed)
        return
    try:
        generator.set_state(content["generator"].cpu())
    except (RuntimeError, TypeError) as error:
        raise UserError(f"checkpoint does not fit: the state of its random generator: {_reason(error)}") from None


if __name__ == "__main__":  # print a checkpoint's config as YAML
    try:
        with safe_streams():
            print(yaml.safe_dump(load(Path(sys.argv[1])).get("config", {}), sort_keys=False), end="")
    except UserError as problem:
        sys.exit(f"error: {problem}")
