"""Show a loaded run where a notebook or a console shows a value: a line of facts, a picture and a table of metrics."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import metrics

if TYPE_CHECKING:
    from ebm_lab.runs.loaded import LoadedRun

GROUPS = ("objective", "dataset", "energy", "sampler")
PICTURES = ("density", "samples")
"""The pictures that show a model, in order of preference."""
FEW = 12
"""The most metrics that a table shows."""


def text(run: "LoadedRun") -> str:
    """Return a run's choices, status and first metrics in two lines."""
    chosen = "  ".join(f"{g}={run.config[g]['name']}" for g in GROUPS if run.config.get(g))
    numbers = "  ".join(f"{name} {value}" for name, value, _ in table(run)[:4])
    status = run.summary.get("status", "unknown")
    return f"<LoadedRun {chosen}  {status} at step {run.step}  {numbers}\n {run.path}>"


def table(run: "LoadedRun") -> list[tuple[str, str, str]]:
    """Return name, value with its standard error, and meaning of the run's results on the test split."""
    known, found = metrics(), []
    for name, value in run.summary.items():
        metric = known.find(name)
        if metric is None or isinstance(value, bool) or not isinstance(value, int | float) or name.endswith("_se"):
            continue
        error = run.summary.get(f"{name}_se")
        shown = f"{value:.4g} ± {error:.2g}" if isinstance(error, float) else f"{value:.4g}"
        found.append((metric.rank, name, shown, metric.title))
    return [(name, shown, title) for _, name, shown, title in sorted(found, key=lambda row: row[0])[:FEW]]


def html(run: "LoadedRun") -> str:
    """Return the same as HTML, with the picture of the density or of samples if there is one."""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(value)}</td><td>{escape(title)}</td></tr>"
        for name, value, title in table(run)
    )
    head = "<tr><th>metric</th><th>value</th><th>meaning</th></tr>"
    image = picture(run)
    shown = ""
    if image is not None:
        data = base64.b64encode(image).decode()
        shown = f'<img alt="picture of the model" style="max-width:100%" src="data:image/png;base64,{data}">'
    return f"<div><pre>{escape(text(run))}</pre>{shown}<table>{head}{rows}</table></div>"


def picture(run: "LoadedRun") -> bytes | None:
    """Return a PNG of the run's model: the last one in its directory, or else a density drawn now; None for neither."""
    for name in PICTURES:
        if files := sorted((Path(run.path) / "images").glob(f"{name}_[0-9]*.png")):
            return files[-1].read_bytes()
    try:
        images: dict[str, Any] = dict(run.evaluate("density").images)
    except UserError:
        return None
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(next(iter(images.values())).permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()
