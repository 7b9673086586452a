"""Read runs for the report: summaries, configs, thinned curves and the files of pictures."""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import loads
from ebm_lab.core.settings import flat
from ebm_lab.runs.run_directory import RunDir

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
HIDDEN = {"output_dir", "plugins", "resume", "init_from", "device", "threads", "max_seconds"}
"""Keys of a config that do not describe what was trained."""
GROUPING = ("objective.name", "dataset.name", "energy.name", "sampler.name")
PICTURE = re.compile(r"(.+)_(\d+)\.png")


def find(root: Path) -> Iterator[Path]:
    """Yield the run directories under `root`, or `root` itself, in the order of their names."""
    folders = {f.parent for pattern in ("config.yaml", "summary.json") for f in root.rglob(pattern)}
    yield from sorted(f for f in folders if (f / "summary.json").is_file() or (f / "images").is_dir())


def searches(root: Path) -> list[Path]:
    """Return the directories of the searches under `root` that left pictures."""
    return sorted({f.parent for f in root.rglob("study.db") if list(f.parent.glob("*.png"))})


def read(path: Path, points: int) -> dict[str, Any]:
    """Read one run; files that cannot be read are listed in its `trouble`, and the rest is shown."""
    run, trouble = RunDir(path), []

    def attempt(what: str, action: Any, empty: Any) -> Any:
        try:
            found = action()
            return found if isinstance(found, type(empty)) else empty
        except (OSError, ValueError, yaml.YAMLError, RecursionError, UserError) as error:
            trouble.append(f"{what}: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}")
            return empty

    summary = attempt("summary.json", run.read_summary, {})
    config = attempt("config.yaml", lambda: plain(yaml.load(run.config_file.read_text(encoding="utf-8"), LOADER)), {})
    rows = attempt("metrics.jsonl", lambda: rows_of(run.metrics_file), [])
    return {
        "name": path.name,
        "path": path,
        "status": str(summary.get("status", "unreadable")),
        "summary": {k: v for k, v in summary.items() if is_number(v) and k not in ("pid", "format")},
        "message": str(summary.get("message", "")),
        "said": said(summary.get("said")),
        "command": str(summary.get("command", "")),
        "config": config,
        "flat": flat({k: v for k, v in config.items() if k not in HIDDEN}),
        "curves": curves(rows, points),
        "images": pictures(path / "images"),
        "trouble": trouble,
    }


def said(lines: Any) -> list[str]:
    """The lines that a run said of its evaluations, as far as a page wants them."""
    return [line[:300] for line in lines[:30] if isinstance(line, str)] if isinstance(lines, list) else []


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl, without events and without incomplete lines, which a kill leaves."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "event" not in row and is_number(row.get("step")):
            rows.append(row)
    return rows


def curves(rows: list[dict[str, Any]], points: int) -> dict[str, dict[str, list[float]]]:
    """Return the steps and values of each metric, thinned to at most `points`."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"step": [], "value": []})
    for row in rows:
        for name, value in row.items():
            if name != "step" and is_number(value):
                found[name]["step"].append(row["step"])
                found[name]["value"].append(value)
    for curve in found.values():
        n = len(curve["step"])
        if n > points:
            kept = sorted({round(i * (n - 1) / (points - 1)) for i in range(points)})
            curve["step"], curve["value"] = ([curve[k][i] for i in kept] for k in ("step", "value"))
        curve["value"] = [float(f"{v:.5g}") for v in curve["value"]]
    return dict(found)


def pictures(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Return for each picture's name its (step, file) in the order of steps; samples come first."""
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for file in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        match = PICTURE.fullmatch(file.name)
        if match:
            found[match.group(1)].append((int(match.group(2)), file))
    return {name: sorted(files) for name, files in sorted(found.items(), key=lambda item: item[0] != "samples")}


def plain(node: Any) -> Any:
    """Convert a YAML value to JSON types; others, such as dates and nan, become text."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node if node is None or isinstance(node, bool | str) or is_number(node) else str(node)[:80]


def varied(runs: list[dict[str, Any]]) -> list[str]:
    """Return the settings in which runs differ: first the chosen components, then keys that vary for one choice."""
    values: dict[str, set[str]] = defaultdict(set)
    within: dict[str, dict[tuple, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        choice = tuple(str(run["flat"].get(k)) for k in GROUPING)
        for key, value in run["flat"].items():
            if not key.startswith(("logger.", "evaluation.")):
                values[key].add(json.dumps(value, default=str))
                within[key][choice].add(json.dumps(value, default=str))
    chosen = [k for k in GROUPING if len(values[k]) > 1]
    return chosen + sorted(k for k, groups in within.items() if any(len(v) > 1 for v in groups.values()))


def is_number(value: Any) -> bool:
    """Return whether JSON can hold the value as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
