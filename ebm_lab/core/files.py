"""Files: written whole or not at all, JSON that every parser reads, and a cache of what takes long to make."""

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

# --- one atomic write ---


def write_atomic(path: Path, content: str | bytes | memoryview) -> None:
    """Make `path` hold `content`: who reads it meanwhile finds the old content or the new one, several writers
    included, and so does a machine that loses its power. Raises OSError, and leaves the old content, where it can't be
    written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if not isinstance(content, str):  # text is cheap to make again, and written often
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


# --- JSON without NaN and Infinity, neither written nor passed on from files that hold them ---


def dumps(content: Any, indent: int | None = None) -> str:
    """`content` as JSON. A number in a mapping that is not finite is left out, and its name is added to the outermost
    mapping's `not_finite`; in a list it becomes null."""
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        lost: list[str] = []
        content = _finite(content, "", lost)
        if isinstance(content, dict):
            content = {**content, "not_finite": sorted({*content.get("not_finite", []), *lost})}
        return json.dumps(content, indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """What JSON text holds, without the numbers in mappings that are not finite: earlier versions wrote such."""
    return json.loads(text, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if not is_lost(v)})


def is_lost(value: Any) -> bool:
    """Is it a number that is not finite?"""
    return isinstance(value, float) and not math.isfinite(value)


def _finite(node: Any, path: str, lost: list[str]) -> Any:
    if isinstance(node, dict):
        lost += [f"{path}{key}" for key, value in node.items() if is_lost(value)]
        return {k: _finite(v, f"{path}{k}.", lost) for k, v in node.items() if not is_lost(v)}
    if isinstance(node, list | tuple):
        return [None if is_lost(value) else _finite(value, path, lost) for value in node]
    return node


# --- a cache: a file's name holds a digest of an identity and its content the identity itself ---


class Kept(NamedTuple):
    """content: of the file, the identity left out; made: whether it was made just now; path: where it lies; notes:
    lines for the user."""

    content: dict[str, Any]
    made: bool
    path: Path
    notes: list[str]


def cache(folder: Path, name: str, identity: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> Kept:
    """The content of <folder>/<name>_<digest of identity>.pt; made and written where it is missing or can't be read.

    identity: plain values; make: tensors and plain values by name."""
    text = json.dumps(identity, sort_keys=True)
    path = folder / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
    notes = []
    if path.is_file():
        content = read_cache(path, text)
        if isinstance(content, dict):
            return Kept(content, False, path, notes)
        notes.append(f"{path}: {content}; made anew")
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
    """What the file holds for this identity, or what is wrong with it."""
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        return f"can't be read ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
    if not isinstance(whole, dict) or whole.keys() != {"identity", "content"} or not isinstance(whole["content"], dict):
        return "holds something else"
    return whole["content"] if whole["identity"] == identity else "was made for another identity"


def digest(tensors: list[Tensor]) -> str:
    """Of the very bytes of tensors with at least one axis."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()
