"""Write the overview: one HTML file that holds the runs as a JSON block, which the page's script draws.

Text of a run is never treated as HTML: the block is JSON with every `<` escaped, and the script only sets text.
"""

import base64
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from ebm_lab.core.registry import metrics
from ebm_lab.reports.overview.collect import varied

SPENT = ("step", "cpu_seconds")
"""Columns after the metrics of the evaluations."""


def page(runs: list[dict[str, Any]], folder: Path, title: str, embed: int, searches: Sequence[Path] = ()) -> str:
    """Return the HTML for `runs`, to be written into `folder`, with the pictures of `searches`, directories of sweeps.

    Pictures are embedded, the newest step of each first, up to `embed` bytes; the others are linked by relative paths.
    """
    table = metrics()
    data = {
        "title": title,
        "varied": varied(runs),
        "lower": table.good("lower"),
        "higher": table.good("higher"),
        "shown": [*(m.name for m in table.shown("report")), *SPENT],
        "runs": [_run(run, folder) for run in runs],
        "searches": [
            {"name": path.name, "images": [[f.stem, _inline(f)] for f in sorted(path.glob("*.png"))]}
            for path in searches
        ],
    }
    _embed(data["runs"], runs, embed)
    parts = {
        name: resources.files("ebm_lab.reports.overview").joinpath(f"page.{name}").read_text(encoding="utf-8")
        for name in ("css", "js")
    }
    html = resources.files("ebm_lab.reports.overview").joinpath("page.html").read_text(encoding="utf-8")
    block = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    for mark, text in (("/*css*/", parts["css"]), ("/*js*/", parts["js"]), ("/*data*/", block)):
        html = html.replace(mark, text)
    return html


def _run(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = Path(os.path.relpath(run["path"], folder))
    return {
        "name": run["name"],
        "link": quote(path.as_posix()),
        "path": os.path.relpath(run["path"]),
        "status": run["status"],
        "message": "; ".join([*run["trouble"], *filter(None, [run["message"]])]),
        "said": run["said"],
        "summary": run["summary"],
        "flat": {k: v if isinstance(v, int | float | str) else json.dumps(v) for k, v in run["flat"].items()},
        "config": yaml.safe_dump(run["config"], sort_keys=False) if run["config"] else "",
        "curves": run["curves"],
        "images": {
            name: [[step, quote((path / "images" / file.name).as_posix())] for step, file in files]
            for name, files in run["images"].items()
        },
    }


def _embed(shown: list[dict[str, Any]], runs: list[dict[str, Any]], budget: int) -> None:
    """Embed pictures up to `budget` bytes, last steps first, so that as many runs as possible have some."""
    files = [
        (len(pictures) - 1 - i, r, name, i, file)
        for r, run in enumerate(runs)
        for name, pictures in run["images"].items()
        for i, (_, file) in enumerate(pictures)
    ]
    for _, r, name, i, file in sorted(files, key=lambda f: f[:2]):
        budget -= file.stat().st_size * 4 // 3
        if budget < 0:
            return
        shown[r]["images"][name][i][1] = _inline(file)


def _inline(file: Path) -> str:
    """Return a picture as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
