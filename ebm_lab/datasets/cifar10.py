"""CIFAR-10: 60,000 colour photographs of ten kinds of things, 32 x 32 pixels, 10,000 of them the official test set.

Pixels 0 to 255 are mapped linearly to [-1, 1]; shape (3, 32, 32). The batches are pickles, which can run any code, so
they are read by an unpickler that can only rebuild arrays. Their checksums are not compared, so that re-encoded batches
can be read too. A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register
from ebm_lab.datasets._images import HeldOut, OfficialImages, refuse_packed, unavailable
from ebm_lab.datasets._splits import Classes

FOLDER = "cifar-10-batches-py"
BROKEN = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    MemoryError,
    pickle.UnpicklingError,
)
"""What unpickling raises on bytes that are not a complete pickle."""
TRAINING, TESTING = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)


@register("dataset", "cifar10")
class CIFAR10(OfficialImages):
    """`root`: the folder that holds cifar-10-batches-py/; `download`: fetch it if files are missing; `val`: how many
    training images, or which fraction of them, to hold out for validation; `seed` chooses them; `classes`: the labels
    to keep, null: all; the test images of the others become `outside`."""

    def __init__(self, *, root: Place, download: bool, val: HeldOut, seed: NonNegativeInt, classes: Classes) -> None:
        folder, files = Path(root) / FOLDER, (*TRAINING, *TESTING)
        missing = [f for f in files if not (folder / f).is_file()]
        error = _download(root) if missing and download else None
        if error or (missing and not download):
            packed = [Path(root) / "cifar-10-python.tar.gz"]
            raise unavailable("CIFAR-10", root, folder, files, missing, download, error, packed)
        try:
            training, testing = (_read(folder, names) for names in (TRAINING, TESTING))
        except BROKEN as problem:
            raise unavailable("CIFAR-10", root, folder, files, [], download, problem) from None
        super().__init__(training, testing, val, seed, classes)


def _download(root: str) -> Exception | None:
    """Fetch and unpack the archive, and return the error if it fails. Torchvision checks the archive's checksum."""
    import torchvision.datasets  # a slow import, needed only here

    try:
        torchvision.datasets.CIFAR10(root, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        return error
    return None


def _read(folder: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return the bytes (n, 3, 32, 32) and labels (n,) of the batches in order."""
    batches = [_batch(folder / name) for name in names]
    data = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(data), torch.tensor([label for _, labels in batches for label in labels])


def _batch(path: Path) -> tuple[np.ndarray, list[int]]:
    refuse_packed(path)
    try:
        with path.open("rb") as file:
            content = ArrayUnpickler(file, path).load()
    except BROKEN as problem:
        reason = (str(problem).splitlines() or [""])[0] or type(problem).__name__
        raise ValueError(f"{path.name} is damaged or not a pickle: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} does not hold a dictionary")
    images, labels = (content[k] if k in content else content.get(k.decode()) for k in (b"data", b"labels"))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise ValueError(f"{path.name} lacks 'data', bytes of shape (n, 3072)")
    if (
        not isinstance(labels, list)
        or len(labels) != len(images)
        or not all(type(v) is int and 0 <= v < 10 for v in labels)
    ):
        raise ValueError(f"{path.name} lacks 'labels', {len(images)} numbers from 0 to 9")
    return images, labels


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as pickle protocols below 3 store them."""
    if encoding != "latin1":
        raise ValueError(f"unknown encoding: {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any, *_: object) -> np.ndarray:
    """Rebuild an array as pickle protocol 5 stores it."""
    return np.frombuffer(bytearray(buffer), dtype=dtype).reshape(shape, order=order)


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of plain containers, numbers, text and numpy arrays, which refuses other names before importing."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        rebuild = np.array(0).__reduce__()[0]
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("numpy._core.multiarray", "_reconstruct"): rebuild,
            ("numpy.core.numeric", "_frombuffer"): _frombuffer,
            ("numpy._core.numeric", "_frombuffer"): _frombuffer,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise UserError(
                f"dataset.root={self.path.parent.parent}: refused to read {self.path}: it asks for "
                f"{f'{module}.{name}'[:80]!r}, which no CIFAR-10 batch needs and which could run any code; "
                f"fetch a clean copy"
            )
        return known[module, name]
