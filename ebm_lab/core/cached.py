"""What takes long to make and depends on known things alone, kept in a file that names those things.

A file's name holds a digest of the identity and its content the identity itself, so that a changed setting or data set
makes a new file and an old one is never taken for it. Written to a temporary name and renamed; read without running
code.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset


class Kept(NamedTuple):
    """content: of the file, the identity left out; made: whether it was made just now; path: where it lies; notes:
    lines for the user."""

    content: dict[str, Any]
    made: bool
    path: Path
    notes: list[str]


def cached(folder: Path, name: str, identity: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> Kept:
    """The content of <folder>/<name>_<digest of identity>.pt; made and written where it is missing or can't be read.

    identity: plain values; make: tensors and plain values by name."""
    text = json.dumps(identity, sort_keys=True)
    path = folder / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
    notes = []
    if path.is_file():
        content = read(path, text)
        if isinstance(content, dict):
            return Kept(content, False, path, notes)
        notes.append(f"{path}: {content}; made anew")
    content = make()
    try:
        write(path, {"identity": text, "content": content})
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror})") from None
    return Kept(content, True, path, notes)


def read(path: Path, identity: str) -> dict[str, Any] | str:
    """What the file holds for this identity, or what is wrong with it."""
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        return f"can't be read ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
    if not isinstance(whole, dict) or whole.keys() != {"identity", "content"} or not isinstance(whole["content"], dict):
        return "holds something else"
    return whole["content"] if whole["identity"] == identity else "was made for another identity"


def write(path: Path, whole: dict[str, Any]) -> None:
    """Write so that `path` never holds half a file, several processes at once included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        torch.save(whole, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set's training split from any other: its kind, its shape and a digest of its very numbers and
    labels, which every setting of the data set that matters has a part in."""
    parts = [dataset.train, *([dataset.labels["train"]] if dataset.labels else [])]
    return {"dataset": type(dataset).__name__, "shape": list(dataset.train.shape), "digest": digest(parts)}


def digest(tensors: list[Tensor]) -> str:
    """Of the very bytes of tensors with at least one axis."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()
