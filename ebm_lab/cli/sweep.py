"""Sweeps: many runs from one command, with a record for each job and a table at the end.

    <sweep dir>/multirun.yaml     Hydra's own record of the command
    <sweep dir>/jobs/<n>.json     overrides, run directory, status and results of job n

Jobs may run in other processes or on other machines (hydra/launcher=joblib, submitit_slurm), so they report by files
only.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ebm_lab.cli.grammar import as_written
from ebm_lab.core.files import dumps, loads, write_atomic
from ebm_lab.core.registry import metrics
from ebm_lab.core.shell import pasteable

SYMBOLS = {"finished": "green", "pruned": "yellow", "interrupted": "yellow", "not started": "yellow"}
FREE = ("seed", "optim.lr", "optim.warmup", "ema")
"""Keys that the compiled step reads as tensors: runs that differ only in these share its code."""
current: list[Path] = []
"""The directory of the sweep that this process leads."""


alike: list[int] = []
"""The number of jobs of this sweep that share the code of one compiled step."""


class Table(Callback):
    """Hydra's callback at the begin and the end of a sweep, in the process that leads it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        current.append(Path(config.hydra.sweep.dir))
        alike.append(count_alike(config))
        with suppress(OSError):  # Hydra, which makes a callback's error a warning, needs the directory next
            (current[-1] / "jobs").mkdir(parents=True, exist_ok=True)
        print(f"sweep directory: {current[-1]}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        show(current[-1])


def count_alike(config: DictConfig) -> int:
    """Count the jobs of a sweep that differ only in FREE keys.

    Returns 1 unless the jobs run one after another: jobs that start together each compile.
    """
    searched = "optuna" in f"{config.hydra.sweeper._target_}".lower()  # its trials differ in settings not known yet
    if searched or "basic" not in f"{config.hydra.launcher._target_}".lower():
        return 1
    params = {**(config.hydra.sweeper.get("params") or {})}
    lines = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    swept = [o for o in OverridesParser.create().parse_overrides(lines) if o.is_sweep_override()]
    values = {o.get_key_element(): len(list(o.sweep_string_iterator())) for o in swept}
    return math.prod(values.get(key, 1) for key in FREE)


def record(folder: Path, number: int, overrides: list[str], **what: Any) -> None:
    """Write or replace the record of job `number`."""
    file = folder / "jobs" / f"{number}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, dumps({"job": number, "overrides": overrides, **what}, indent=2) + "\n")


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Read all records of a sweep, in order."""
    files = sorted((folder / "jobs").glob("*.json"), key=lambda f: int(f.stem))
    return [loads(f.read_text(encoding="utf-8")) for f in files]


def exit_status(folder: Path) -> int:
    """Return 0 if every job finished, 75 if some were stopped by a signal and none failed, else 1.

    In a search a run may be pruned or diverge: its settings are then known to be bad.
    """
    allowed = {"finished", "pruned", "diverged"} if (folder / "study.db").is_file() else {"finished"}
    found = {0 if job["status"] in allowed else job["exit"] for job in jobs(folder)}
    if found <= {0}:
        return 0
    return 75 if found <= {0, 75, 130} else 1


def show(folder: Path) -> None:
    """Print a row for each job; its run stands below the table where the row would be too wide for the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table as Grid

    found, console = jobs(folder), Console()
    shared = set.intersection(*(set(job["overrides"]) for job in found)) if len(found) > 1 else set()
    shown = [m.name for m in metrics().shown("sweep") if any(m.name in job.get("results", {}) for job in found)]
    runs = [Path(job["run"]).name if job.get("run") else job.get("message", "")[:80] for job in found]
    names, rows = ["job", "overrides", "status", *shown, "run"], []
    for job, run in zip(found, runs, strict=True):
        results = [f"{job['results'][c]:.4g}" if c in job.get("results", {}) else "" for c in shown]
        status = f"[{SYMBOLS.get(job['status'], 'red')}]{job['status']}[/]"
        own = escape(" ".join(as_written(o) for o in job["overrides"] if o not in shared))
        rows.append([str(job["job"]), own, status, *results, escape(run)])

    def table(columns: int) -> Grid:
        grid = Grid(title=f"sweep {folder.name}", title_justify="left")
        for name in names[:columns]:
            grid.add_column(name, justify="right" if name in ("job", *shown) else "left", overflow="fold")
        for row in rows:
            grid.add_row(*row[:columns])
        return grid

    whole = table(len(names))
    fits = Measurement.get(console, console.options.update(max_width=10_000), whole).maximum <= console.width
    console.print(whole if fits else table(len(names) - 1))
    if not fits:
        print(*(f"job {job['job']}: {run}" for job, run in zip(found, runs, strict=True)), sep="\n")
    done = sum(job["status"] in ("finished", "pruned", "diverged") for job in found)
    if done < len(found):
        again = pasteable("python scripts/sweep.py", f"resume={folder}")
        print(f"{done} of {len(found)} jobs ended; continue with: {again}")
