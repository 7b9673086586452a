"""Fit a model to values in memory: `ebm_lab.fit(x, objective="nce")`."""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm_lab.cli.api import train
from ebm_lab.cli.quoting import quoted
from ebm_lab.core.errors import UserError
from ebm_lab.core.files import write_atomic

if TYPE_CHECKING:
    from ebm_lab.runs.loaded import LoadedRun

OPTION = re.compile(r"[A-Za-z_]\w*(/\w+)?")
"""The name of an option of a group, which is written without quotes."""


def fit(
    x: Any,
    objective: str = "nce",
    *,
    y: Any = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    quiet: bool = True,
    **settings: Any,
) -> "LoadedRun":
    """Train a model of the rows of x and return the run, as `load_run` does.

    x: a tensor, an array or a data frame, (n, *shape), in raw units; y: class labels (n,), for objectives that take
    them; settings: those of `train.py`, as steps=500, energy="mlp", optim={"lr": 1e-3} or
    dataset={"val": 0.2} for the split of the rows; overrides: the same as text,
    "optim.lr=1e-3". The rows are kept as <output_dir>/data/<digest>.npy (.npz with y, .csv of a data frame), where the
    run finds them again. Without logger=... nothing is logged to a service. Raises UserError for a mistake in the
    settings or the rows.
    """
    from ebm_lab.runs.load import load_run

    root = Path(settings.get("output_dir", "outputs"))
    data = [f"dataset.{key}={quoted(value)}" for key, value in stored(x, y, root / "data").items()]
    rows = {} if isinstance(settings.get("dataset"), str) else {"dataset": settings.pop("dataset", {})}
    chosen = {"objective": objective, "dataset": "array", "logger": "none", **settings}
    result = train([*written(chosen), *data, *written(rows), *overrides], config_dir=config_dir, quiet=quiet)
    if result.status != "finished":
        raise UserError(f"{result.path}: the run ended as {result.status}: {result.summary.get('message', '')}")
    plugins = [str(p) for p in settings.get("plugins", ())]
    return load_run(result.path, plugins=plugins)


def written(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings as overrides: {"optim": {"lr": 0.1}} -> 'optim.lr=0.1'."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from written(value, f"{prefix}{key}.")
        else:
            option = not prefix and isinstance(value, str) and OPTION.fullmatch(value)
            yield f"{prefix}{key}={value if option else _value(value)}"


def _value(value: Any) -> str:
    """Write a Python value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return quoted(str(value)) if isinstance(value, str | Path) else str(value)


def stored(x: Any, y: Any, folder: Path) -> dict[str, str]:
    """Write the rows to a file named by their digest, unless it exists; return the settings of dataset=array that read
    it."""
    import numpy as np

    buffer, more = io.BytesIO(), {}
    columns = getattr(x, "columns", None)
    values = _array(x)
    if values.ndim < 1 or not len(values):
        raise UserError(f"x: has shape {values.shape}; it must have rows, (n, *shape)")
    labels = None if y is None else _array(y)
    if labels is not None and labels.shape != (len(values),):
        raise UserError(f"y: has shape {labels.shape}; it must be one label for each of the {len(values)} rows of x")
    if values.ndim == 1:
        values = values[:, None]
    if columns is not None and labels is None:
        suffix, buffer = ".csv", io.BytesIO(_csv([str(c) for c in columns], values).encode())
    elif labels is None:
        suffix = ".npy"
        np.save(buffer, values)
    else:
        suffix, more = ".npz", {"key": "x", "label": "y"}
        np.savez(buffer, x=values, y=labels)
    content = buffer.getvalue()
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomic(path, content)
    except OSError as error:
        raise UserError(f"output_dir={folder.parent}: can't be written there ({error.strerror})") from None
    return {"path": str(path.absolute()), **more}


def _array(values: Any) -> Any:
    """Return a tensor, an array, a data frame or a list as an array."""
    import numpy as np
    from torch import Tensor

    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        found = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    except ValueError as error:
        raise UserError(f"x: no array can be made of it ({error})") from None
    return found


def _csv(columns: Sequence[str], values: Any) -> str:
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(values.tolist())
    return text.getvalue()
