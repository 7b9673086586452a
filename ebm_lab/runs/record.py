"""Describe a run: its name, the lines above its progress bar, the facts in its summary."""

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ebm_lab import __version__
from ebm_lab.core.eval_view import is_silent, reason_against
from ebm_lab.core.interfaces import Logger, RunInfo
from ebm_lab.core.logger import loggers_of
from ebm_lab.core.registry import build
from ebm_lab.core.streams import say
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.baselines import blind_note
from ebm_lab.loggers.guarded import Guarded
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.training import checkpoint
from ebm_lab.training.checkpoint import machine
from ebm_lab.training.trainer import Trainer

RESUME_MAY_CHANGE = ("steps", "max_seconds", "device", "logger", "plugins", "guard")
"""The keys that may be given beside `resume`."""


COMPILING = "; compiling takes about half a minute at the beginning, and seconds if an earlier run left the code"


def label(config: Mapping[str, Any]) -> str:
    return f"{config['objective']['name']}_{config['dataset']['name']}_s{config['seed']}"


def fingerprint(config: Mapping[str, Any]) -> str:
    """Hash what a config asks for; the hash is equal for two runs that would give the same numbers."""
    free = ("resume", "output_dir", "logger", "plugins", "device", "runs_alike")
    asked = {k: v for k, v in config.items() if k not in free}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def introduce(trainer: Trainer, run: RunDir) -> None:
    """Print the lines above the progress bar."""
    state, dataset = trainer.state, trainer.evaluations.dataset
    config, device, world = state.config, state.generator.device, state.processes.world
    choice = "  ".join(
        f"{g}={config[g]['name']}" for g in ("objective", "dataset", "energy", "sampler") if config.get(g)
    )
    trainer.say(f"{choice}  seed={config['seed']}")
    trainer.say(
        f"{parameters(trainer):,} parameters; {len(dataset.train):,} training points of shape {dataset.event_shape}; "
        f"{device}, {torch.get_num_threads()} thread(s)"
        + (f", {world} processes" if world > 1 else "")
        + (COMPILING if config.get("compile") == "on" else "")
    )
    for line in (*trainer.notes, *left_out(trainer), *unseen(trainer)):
        trainer.say(line)
    if state.step:
        trainer.say(f"resumed at step {state.step}")
    trainer.say(f"run directory: {run.path}")


def parameters(trainer: Trainer) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in trainer.state.objective.parameters() if p.requires_grad)


def left_out(trainer: Trainer) -> list[str]:
    """Return a line for each requested evaluation that does not apply.

    An evaluation may do so silently; the absence of `likelihood` is reported unless another one gives a likelihood.
    """
    view = trainer.evaluations.view("test", trainer.state.step)
    lines, likelihoods = [], {"likelihood", "flow_likelihood", "ais"}
    evaluators = trainer.evaluations.evaluators
    reasons = {name: reason_against(evaluator, view) for name, evaluator in evaluators.items()}
    known = any(name in likelihoods and reason is None for name, reason in reasons.items())
    for name, reason in reasons.items():
        if reason is not None and (not is_silent(evaluators[name]) if name != "likelihood" else not known):
            lines.append(f"no {name}: {reason}")
    return lines


def unseen(trainer: Trainer) -> list[str]:
    """A line where the data have modes whose weights the objective does not learn."""
    objective = trainer.state.objective
    within, name = objective.sees_within(), trainer.state.config["objective"]["name"]
    if within is None:
        return []
    line = blind_note(trainer.evaluations.dataset, f"objective={name}", within, base_of(objective.model()))
    return [] if line is None else [line]


def build_loggers(
    trainer: Trainer, path: Path, say: Callable[[str], None], note: Callable[[str], None]
) -> list[Logger]:
    """Build the config's loggers for a run in `path`. Raises UserError for a mistake in their settings.

    A failure of a logger is passed to `note` and ends neither the run nor the other loggers.
    """
    config = trainer.state.config.get("logger") or {}
    info = RunInfo(path.name, path, trainer.state.config, say)

    def guarded(name: str, values: Mapping[str, Any]) -> Logger:
        where = "logger" if values is config else f"logger.{name}"
        return Guarded(name, lambda: build("logger", values, where, info=info), note)

    return [guarded(name, values) for name, values in loggers_of(config).items()]


def check_loggers(trainer: Trainer) -> None:
    """Raise UserError, before a run is made, for a mistake in the loggers' settings."""
    build_loggers(trainer, Path("check"), say, note=lambda line: None)  # a failure is reported when the run begins


def rows(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Select the part of a summary that the final table shows."""
    hidden = {"pid", "request", "host", "said", "versions", "git_commit", "command", "format"}
    shown = {k: v for k, v in summary.items() if k not in hidden and not k.startswith(("startup_", "eval_"))}
    return {k: v for k, v in shown.items() if v is not None}


def describe(trainer: Trainer) -> dict[str, Any]:
    """Collect facts about this process for the summary."""
    packages = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "numpy", "scikit-learn")
    versions = {"python": platform.python_version(), "ebm_lab": __version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "format": checkpoint.FORMAT,
        "parameters": parameters(trainer),
        **{f"machine_{k}": v for k, v in machine(trainer.state.generator.device).items() if k != "torch"},
        **({"processes": trainer.state.processes.world} if trainer.state.processes.world > 1 else {}),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv),
        "git_commit": git_commit(),
        "versions": versions,
    }


def git_commit() -> str | None:
    """Return the commit of the working directory, with '+' if it has changes; None outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.decode().strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
