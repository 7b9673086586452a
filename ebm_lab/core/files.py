"""Atomic writes, locks, JSON that every parser reads, and a cache of results that take long to compute."""

import fcntl
import hashlib
import io
import json
import math
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError

# --- atomic writes ---


def write_atomic(path: Path, content: str | bytes | memoryview) -> None:
    """Replace the content of `path` in one step: a concurrent reader, another writer or a power failure sees either the
    old content or the new. Raises OSError and keeps the old content if the file can't be written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if not isinstance(content, str):  # text is written often and easily recreated
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock on the file, on this machine or on another that shares the file system."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- JSON without NaN and Infinity, which are neither written nor read ---


def dumps(content: Any, indent: int | None = None) -> str:
    """Return `content` as JSON.

    Numbers in mappings that are not finite are omitted, and their names are added to `not_finite` in the outermost
    mapping; in lists they become null.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        lost: list[str] = []
        content = _finite(content, "", lost)
        if isinstance(content, dict):
            content = {**content, "not_finite": sorted({*content.get("not_finite", []), *lost})}
        return json.dumps(content, indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Parse JSON without the numbers in mappings that are not finite, which earlier versions wrote."""
    return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if not is_lost(v)})


def is_lost(value: Any) -> bool:
    """Return whether `value` is a float that is not finite."""
    return isinstance(value, float) and not math.isfinite(value)


def _finite(node: Any, path: str, lost: list[str]) -> Any:
    if isinstance(node, dict):
        lost += [f"{path}{key}" for key, value in node.items() if is_lost(value)]
        return {k: _finite(v, f"{path}{k}.", lost) for k, v in node.items() if not is_lost(v)}
    if isinstance(node, list | tuple):
        return [None if is_lost(value) else _finite(value, path, lost) for value in node]
    return node


# --- a cache: a digest of the identity in the file's name, the identity itself in its content ---


class Kept(NamedTuple):
    """A cached result. content: the file's, without the identity; made: whether it was computed by this call; path: of
    the file; notes: lines for the user."""

    content: dict[str, Any]
    made: bool
    path: Path
    notes: list[str]


def cache(folder: Path, name: str, identity: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> Kept:
    """Return the content of <folder>/<name>_<digest of identity>.pt; compute and write it if the file is missing or
    can't be read.

    identity: plain values that determine the content; make: returns tensors and plain values by name."""
    text = json.dumps(identity, sort_keys=True)
    path = folder / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
    notes = []
    if path.is_file():
        content = read_cache(path, text)
        if isinstance(content, dict):
            return Kept(content, False, path, notes)
        notes.append(f"{path}: {content}; recomputed")
    content = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"identity": text, "content": content}, buffer)
        write_atomic(path, buffer.getbuffer())
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror})") from None
    return Kept(content, True, path, notes)


def read_cache(path: Path, identity: str) -> dict[str, Any] | str:
    """Return the content of the file, or what is wrong with it as a string; `identity` is the JSON text it was written
    for."""
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        return f"can't be read ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
    if not isinstance(whole, dict) or whole.keys() != {"identity", "content"} or not isinstance(whole["content"], dict):
        return "is not a cache file of ebm_lab"
    return whole["content"] if whole["identity"] == identity else "was made for another identity"


def digest(tensors: list[Tensor]) -> str:
    """Return the SHA-256 of the bytes of tensors that have at least one axis each."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()
