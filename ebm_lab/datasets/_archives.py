"""Arrays in numpy's file formats: an .npy file, or one array of an .npz, as real numbers. No code in them is run.

Integers, real numbers and booleans (0 and 1) become float64. Labels are a column of the array, or another array of the
archive, and may be texts. Complex numbers, texts, dates, named fields and Python
objects are refused, because there is more than one way to turn them into real numbers.
"""

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.datasets._labels import column

BROKEN = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What numpy and zipfile raise on files that are damaged, cut, encrypted or of another kind."""
WAYS_OUT = {
    "c": "complex numbers; save their real and imaginary parts as coordinates: np.stack([x.real, x.imag], -1)",
    "O": "Python objects, which could run code; save numbers: np.save(path, np.asarray(x, dtype=float))",
    "S": "texts; save numbers",
    "U": "texts; save numbers",
    "M": "dates; save numbers, such as seconds: x.astype('datetime64[s]').astype(float)",
    "m": "durations; save numbers, such as seconds: x / np.timedelta64(1, 's')",
    "V": "fields or raw bytes; save numbers: numpy.lib.recfunctions.structured_to_unstructured(x)",
}


def read_array(
    path: Path, key: str | None, label: str | int | None = None
) -> tuple[np.ndarray, list[str] | None, list[str]]:
    """Return the array in float64, in its shape in the file, labels as texts, (n,), if asked for, and notes for the
    user. label: the index of a column, which is taken out of the array, or the name of another array of the archive.

    Raises UserError if `key` or `label` selects nothing, and one of BROKEN, with the reason, if the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start[:2] != b"PK" and start != b"\x93NUMPY":
            kind = "it is empty" if not start else f"it begins with {start!r}"
            raise ValueError(f"it is not an .npy or .npz file: {kind}")
        loaded, named = _load(file, path, key, label)
        if start[:2] != b"PK" and file.read(1):
            raise ValueError("there is more after its array; save one array per file, or several in an .npz")
    if loaded.dtype.kind not in "biuf":
        raise ValueError(f"it holds {loaded.dtype}: {WAYS_OUT.get(loaded.dtype.kind, 'no numbers')}")
    if label is not None and named is None:
        if loaded.ndim != 2:
            raise UserError(f"dataset.label={label}: {path} holds no table, its shape is {loaded.shape}")
        at = column(label, None, loaded.shape[1])
        loaded, named = np.delete(loaded, at, 1), loaded[:, at]
    notes = []
    if loaded.dtype.kind in "iu" and loaded.size and max(-int(loaded.min()), int(loaded.max())) > 2**53:
        step = np.spacing(np.float64(max(-int(loaded.min()), int(loaded.max()))))
        notes.append(f"{path}: whole numbers beyond 2^53 are rounded, up to multiples of {step:g}")
    labels = None if named is None else _texts(named, len(loaded) if loaded.ndim else 0, label)
    with np.errstate(over="ignore"):  # overflow gives inf, which is refused later
        return loaded.astype(np.float64), labels, notes


def _texts(labels: np.ndarray, n: int, label: str | int | None) -> list[str]:
    """Return the labels of n rows as texts."""
    if labels.shape != (n,) or labels.dtype.kind not in "biufUS":
        raise UserError(f"dataset.label={label}: has shape {labels.shape} and type {labels.dtype}, not one label a row")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in labels.tolist()]


def _load(
    file: io.BufferedReader, path: Path, key: str | None, label: str | int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the array, and that of the labels if `label` names one."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            if isinstance(label, str) and label not in loaded.files:
                raise one_of("dataset.label", label, loaded.files)
            name = _chosen([f for f in loaded.files if f != label], path, key)
            array, labels = loaded[name], loaded[label] if isinstance(label, str) else None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"it holds {WAYS_OUT['O']}") from None
        raise
    for found, where in ((array, name), (labels, label)):
        if found is not None and not isinstance(found, np.ndarray):
            raise ValueError(f"'{where}' in it is not an array")
    return array, labels


def _chosen(names: list[str], path: Path, key: str | None) -> str:
    """Return the name of the array to read."""
    if not names:
        raise ValueError("it holds no arrays")
    if key is None and len(names) != 1:
        raise UserError(f"dataset.key=null: {path} holds {len(names)} arrays; name one: {', '.join(names)}")
    if key is not None and key not in names:
        raise one_of("dataset.key", key, names)
    return names[0] if key is None else key
