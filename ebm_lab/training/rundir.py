"""A run's own directory: made for it alone, and described by `config.yaml` and `summary.json`."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from ebm_lab.core.errors import UserError
from ebm_lab.core.whole import write_whole

RUNS = "runs"
LATER: dict[tuple[str, str], dict[str, Any]] = {
    **{("dataset", name): {"classes": None} for name in ("digits", "mnist", "fashion_mnist", "cifar10")},
    ("logger", "wandb"): {"job_type": "train", "checkpoints": False},
}
"""Settings that a component got after runs had been made with it, and the values that stand for what it did before."""
LATER_KEYS = {"accumulate": 1, "precision": "float32", "channels_last": False, "compile": "off"}
"""The same for keys of the run itself."""


class RunDir:
    """Paths of one run. `create` never returns a directory that existed.

    `last`: the newest checkpoint; `good`: the last one that the guard has proven; `candidate`: one that it may prove.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file, self.summary_file = path / "config.yaml", path / "summary.json"
        self.metrics_file, self.images = path / "metrics.jsonl", path / "images"
        kept = path / "checkpoints"
        self.last, self.best, self.good = kept / "last.pt", kept / "best.pt", kept / "good.pt"
        self.candidate = kept / "candidate.pt"
        self.lock_file = path / "lock"
        self._held: IO[str] | None = None

    @classmethod
    def create(cls, root: Path, label: str) -> "RunDir":
        """A new directory under `root`/runs named by the time to the microsecond and `label`."""
        while True:
            stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
            path = root / RUNS / f"{stamp}_{label}"
            try:
                path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                label = f"{label}-{secrets.token_hex(2)}"
                continue
            except OSError as error:
                raise UserError(f"output_dir={root}: can't make a run directory there ({error.strerror})") from None
            run = cls(path)
            run.hold()
            run.images.mkdir()
            run.last.parent.mkdir()
            return run

    @classmethod
    def open(cls, path: str | Path, key: str) -> "RunDir":
        """An existing run; raises UserError, naming `key`, if `path` is none."""
        run = cls(Path(path))
        if not run.path.is_dir():
            raise UserError(f"{key}={path}: no such directory; give a run directory, as under outputs/runs/")
        missing = [f.name for f in (run.config_file, run.summary_file) if not f.is_file()]
        if missing:
            raise UserError(f"{key}={path}: not a run directory, it has no {' and no '.join(missing)}")
        return run

    def hold(self) -> bool:
        """Take the run for this process until `release` or its end, whatever ends it; False: another has it."""
        held = open(self.lock_file, "a")  # noqa: SIM115 (closed in release)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return False
        self._held = held
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def alive(self) -> bool:
        """Does a process hold the run, on this machine or on another that shares the file system?"""
        if self._held is not None:
            return True
        if not self.lock_file.is_file():
            return False
        with open(self.lock_file) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def promote(self) -> None:
        """The candidate becomes the good checkpoint; where it is gone, a process that was killed had done so."""
        if self.candidate.is_file():
            os.replace(self.candidate, self.good)

    def write_config(self, config: dict[str, Any]) -> None:
        write_whole(self.config_file, yaml.safe_dump(config, sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """The values the run used, and those of settings that came later."""
        config = {**LATER_KEYS, **yaml.safe_load(self.config_file.read_text())}
        for (group, name), values in LATER.items():
            if (config.get(group) or {}).get("name") == name:
                config[group] = {**values, **config[group]}
        return config

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_whole(self.summary_file, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """The summary; a `running` whose process is gone reads as `interrupted`."""
        summary = json.loads(self.summary_file.read_text())
        if summary.get("status") == "running" and not self.alive():
            summary["status"] = "interrupted"
        return summary


def runs_under(root: Path) -> Iterator[RunDir]:
    """The runs under `root`/runs, newest first; a directory that no run finished making is none."""
    folders = sorted((root / RUNS).iterdir(), reverse=True) if (root / RUNS).is_dir() else []
    for path in folders:
        run = RunDir(path)
        if run.config_file.is_file() and run.summary_file.is_file():
            yield run
