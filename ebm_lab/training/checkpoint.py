"""Checkpoints: complete, atomic, and loadable without running code."""

import io
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ebm_lab.core.errors import UserError

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that `path` always holds either the old checkpoint or the new one, whole. Raises OSError, and
    leaves the old one, where it can't be written."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def copy(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds now: a hard link where the file system has them, for `save` never writes
    into an existing file; replaced whole."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # left where both were links to one file


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`. Raises UserError for a missing, damaged or foreign file."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0][:100]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: checkpoint format {found}, and this version reads format {FORMAT}")
    return content


def fill(part: Any, state: Any, name: str) -> None:
    """Load `state` into `part`. Raises UserError where it does not fit, as in a run whose config was edited."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"checkpoint does not fit its config: {name}: {lines[1 if len(lines) > 1 else 0][:160]}"
        ) from None


def machine(device: torch.device) -> dict[str, Any]:
    """What bit-exact resuming depends on."""
    return {"threads": torch.get_num_threads(), "device": device.type, "torch": str(torch.__version__)}
