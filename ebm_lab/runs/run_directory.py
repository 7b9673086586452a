"""The directory of a run: created for it alone, and described by `config.yaml` and `summary.json`."""

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import dumps, is_locked, loads, write_atomic
from ebm_lab.core.logger import loggers_of
from ebm_lab.core.registry import GROUPS
from ebm_lab.core.shell import pasteable
from ebm_lab.training.checkpoint import FORMAT

RUNS = "runs"
BASED = ("mlp", "conv", "resnet", "noise_mlp", "noise_conv")
"""Energies with the setting `base`."""
PLAIN_UNET = {"blocks": 1, "norm": "none", "patch": 1, "film_width": 32}
"""The settings of the U-Net's first version."""
ADDED_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    **{("dataset", name): {"classes": None} for name in ("digits", "mnist", "fashion_mnist", "cifar10")},
    ("dataset", "array"): {"label": None, "classes": None, "space": "continuous", "dequantise": False},
    ("dataset", "image_folder"): {"range": "auto", "background": None},
    **{("energy", name): {"base": "none"} for name in BASED},
    ("energy", "noise_unet"): {"base": "none", "form": "scalar", **PLAIN_UNET},
    ("energy", "score_unet"): PLAIN_UNET,
    ("objective", "multi_dsm"): {"weight": "sigma2", "log_mean": 0.0, "log_std": 1.0},
    ("objective", "f_ebm"): {"adds_energy": False},
    ("objective", "vera"): {"reweight": False},
    ("objective", "ksd"): {"tilt": 0.0},
    ("objective", "lsd"): {"adds_score": False},
    ("objective", "ed"): {"kernel": "gaussian", "flip": 0.1},
    ("objective", "nce"): {"loss": "logistic"},
    ("objective", "pcd"): {"conditional": False},
    ("evaluation", "feature_fid"): {"neighbours": 5},
    ("evaluation", "ood"): {"refine_steps": 20, "refine_step_size": None},
    ("logger", "wandb"): {"job_type": "train", "checkpoints": False, "finish_timeout": 5},
}
"""Settings added to a component since its first version, with the values that reproduce its earlier behaviour."""
LATER_KEYS = {
    "accumulate": 1,
    "precision": "float32",
    "deterministic": "off",
    "channels_last": False,
    "compile": "off",
    "runs_alike": 1,
    "early_stopping": "off",
    "preprocess": "none",
}
"""The same for root keys of the config."""


class RunDir:
    """The paths of one run. `create` never returns a directory that existed.

    `last`: the newest checkpoint; `good`: the last one that the guard approved; `candidate`: one that the guard has yet
    to judge.
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
        """Create a directory under `root`/runs, named by the time to the microsecond and `label`."""
        label = re.sub(r"[^\w.+-]", "_", label)
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
            return run

    @classmethod
    def open(cls, path: str | Path, key: str) -> "RunDir":
        """Open an existing run; raise UserError, naming `key`, if `path` is not one of a format that is read here."""
        run = cls(Path(path))
        try:
            if not run.path.is_dir():
                raise UserError(f"{key}={path}: no such directory; give a run directory, as under outputs/runs/")
            missing = [f.name for f in (run.config_file, run.summary_file) if not f.is_file()]
        except OSError as error:
            raise UserError(f"{key}={path}: can't be read ({error.strerror})") from None
        if missing:
            raise UserError(f"{key}={path}: not a run directory, it has no {' and no '.join(missing)}")
        if (link := run.way_out()) is not None:
            raise UserError(f"{key}={path}: refused, {link} is a link that leads out of the run directory")
        run.read_summary()
        return run

    def way_out(self) -> Path | None:
        """Find a link that leads out of the run directory: by it, someone else's run could write files elsewhere."""
        home = self.path.resolve()
        for folder, folders, files in os.walk(self.path):
            for entry in (Path(folder, name) for name in (*folders, *files)):
                if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(home):
                    return entry.relative_to(self.path)
        return None

    @property
    def root(self) -> Path:
        """The output directory that the run lies in, whatever its config says; the run's own if it is in no `runs`."""
        path = self.path if self.path.parent.name == RUNS else self.path.absolute()
        return path.parent.parent if path.parent.name == RUNS else self.path

    def hold(self) -> bool:
        """Lock the run for this process until `release` or the process's end; return False if another one holds it.

        Raises UserError if the run can't be written.
        """
        try:
            held = open(self.lock_file, "a", encoding="utf-8")  # noqa: SIM115 (closed in release)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = held
                self._try_writing()
                for unfinished in self.path.rglob("*.tmp"):  # left by a process that was killed while writing
                    unfinished.unlink(missing_ok=True)
            except BaseException:
                held.close()
                self._held = None
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            where = error.filename or self.lock_file
            raise UserError(
                f"{self.path}: a run is trained in its own directory, and {Path(where).name} can't be written there "
                f"({error.strerror})"
            ) from None
        return True

    def _try_writing(self) -> None:
        """Raise OSError if training could not write here; change no file."""
        for folder in (self.path, self.images, self.last.parent):
            folder.mkdir(exist_ok=True)
            try:
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(folder)) from None
        for file in (self.metrics_file, self.config_file, self.summary_file, self.last):
            if file.exists():
                open(file, "ab").close()

    def release(self) -> None:
        """Unlock the run; remove its directory if it was stopped before it began."""
        if self._held is not None:
            if not any(f.exists() for f in (self.summary_file, self.good, self.last)):
                shutil.rmtree(self.path, ignore_errors=True)
            self._held.close()
            self._held = None

    def alive(self) -> bool:
        """Return whether a process holds the run, on this machine or on another that shares the file system."""
        return self._held is not None or is_locked(self.lock_file)

    def write_config(self, config: dict[str, Any]) -> None:
        try:
            write_atomic(self.config_file, yaml.safe_dump(config, sort_keys=False))
        except OSError as error:
            raise UserError(f"{self.config_file}: can't be written ({error.strerror})") from None

    def read_config(self) -> dict[str, Any]:
        """Read the values that the run used, completed by settings that were added since.

        Someone else may have written the config: output paths are therefore confined to the directory that the run lies
        in, and downloads are turned off.
        """
        try:
            config = {**LATER_KEYS, **_mapping(self.config_file, yaml.safe_load)}
            for group in GROUPS:
                if not isinstance(config.get(group), dict | None):
                    raise UserError(f"{self.config_file}: damaged, '{group}' holds no settings by name")
        except UserError as error:
            shown = pasteable("python -m ebm_lab.training.checkpoint", self.last)
            hint = f"; its checkpoint holds the settings too: {shown}"
            raise UserError(f"{error}{hint if self.last.is_file() else ''}") from None
        loggers = loggers_of(config.get("logger"))
        for (group, name), values in ADDED_SETTINGS.items():
            if group == "logger" and isinstance(loggers.get(name), dict):
                loggers[name].update({**values, **loggers[name]})
            elif (config.get(group) or {}).get("name") == name:
                config[group] = {**values, **config[group]}
            elif group == "objective" and ((config.get(group) or {}).get("generative") or {}).get("name") == name:
                config[group]["generative"] = {**values, **config[group]["generative"]}
            elif group == "evaluation" and isinstance((config.get(group) or {}).get(name), dict):
                config[group][name] = {**values, **config[group][name]}
        config["output_dir"] = str(self.root)
        for logger in loggers.values():
            if isinstance(logger, dict) and not _within(str(logger.get("directory", self.root)), self.root):
                logger["directory"] = str(self.root)
        dataset = config.get("dataset") or {}
        if "download" in dataset:
            dataset["download"] = False
        return config

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomic(self.summary_file, dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """Read the summary; the status `running` becomes `interrupted` if the process is gone."""
        try:
            summary = _mapping(self.summary_file, loads)
        except UserError as error:
            raise UserError(f'{error}; to go on without it, write {{"status": "interrupted"}} into it') from None
        found = summary.get("format", FORMAT)
        if not isinstance(found, int) or found > FORMAT:
            raise UserError(f"{self.path}: run directory of format {found}, and this version reads format {FORMAT}")
        if summary.setdefault("status", "interrupted") == "running" and not self.alive():
            summary["status"] = "interrupted"
        return summary


def _mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Read a text file that holds values by name; raise UserError if it is damaged."""
    try:
        found = parse(file.read_text(encoding="utf-8"))
        sound = isinstance(found, dict) and _named(found)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: damaged ({text[:120]})") from None
    if not sound:
        raise UserError(f"{file}: damaged ({'it holds no settings by name' if found else 'it is empty'})")
    return found


def _named(node: Any) -> bool:
    """Return whether all keys are texts, at every depth."""
    if isinstance(node, dict):
        return all(isinstance(key, str) for key in node) and all(map(_named, node.values()))
    return all(map(_named, node)) if isinstance(node, list) else True


def _within(path: str, root: Path) -> bool:
    return Path(path).resolve().is_relative_to(root.resolve())


def runs_under(root: Path) -> Iterator[RunDir]:
    """Yield the runs under `root`/runs, newest first; skip directories without a config or a summary."""
    folders = sorted((root / RUNS).iterdir(), reverse=True) if (root / RUNS).is_dir() else []
    for path in folders:
        run = RunDir(path)
        if run.config_file.is_file() and run.summary_file.is_file():
            yield run
