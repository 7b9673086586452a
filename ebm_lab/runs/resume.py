"""Resume a run from its last checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.streams import say
from ebm_lab.loggers.files import rows
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.known_data import RESUMED, same_data, way_out
from ebm_lab.runs.record import check_loggers
from ebm_lab.runs.run_directory import RunDir, runs_under
from ebm_lab.runs.saver import RunSaver, newest
from ebm_lab.runs.settings import pick_device
from ebm_lab.training import checkpoint
from ebm_lab.training.checkpoint import machine, other_device
from ebm_lab.training.distributed import Processes
from ebm_lab.training.trainer import Trainer

ENDED = ("finished", "diverged")
"""Status of a run that `resume=auto` does not continue."""
ORDER = {"failed": 1, "diverged": 2, "finished": 3, "interrupted": 4}
"""Rank by status: of several runs of one command, `resume=auto` takes the highest."""


def unfinished(root: Path, config: Mapping[str, Any], request: str) -> tuple[Path | None, dict[str, Any]]:
    """Resolve `resume=auto`: return the run's path if it has ended, else None, and the config to continue with."""
    found = earlier(root, request)
    if found is None:
        return None, {**config, "resume": None}
    status = found.read_summary()["status"]
    if status in ENDED:
        say(
            f"resume=auto: {found.path} has ended; nothing is left to do (it is {status}; leave resume=auto out for "
            f"a new run)"
        )
        return found.path, dict(config)
    return None, again(found, config)


def earlier(root: Path, request: str) -> RunDir | None:
    """Find the run under `root` to continue, among those with the same request that no process holds.

    An interrupted run comes first, then a finished, a diverged and a failed one; among equals the one with most steps.
    The names, which hold the time, only break ties, for a clock may be set back.
    """
    best: tuple[tuple[int, int], RunDir] | None = None
    for run in runs_under(root):
        try:
            summary = run.read_summary()
        except UserError as error:
            say(f"resume=auto: passed over: {error}")
            continue
        if summary.get("request") != request or run.alive():
            continue
        rank = (ORDER.get(summary["status"], 0), reached(run, summary))
        if best is None or rank > best[0]:
            best = rank, run
    return best[1] if best else None


def reached(run: RunDir, summary: Mapping[str, Any]) -> int:
    """Return the last step that a run's files record; a killed process has written it to its metrics only."""
    told = rows(run.metrics_file) if run.metrics_file.is_file() else []
    step = summary.get("step")
    return max([step if isinstance(step, int) else 0, *(row["step"] for row in told[-1:])])


def again(run: RunDir, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that continues `run`, with this command's data paths, device, logger and plugins."""
    return {
        **run.read_config(),
        **{k: config[k] for k in ("dataset", "device", "logger", "plugins")},
        "resume": str(run.path),
    }


def reopen(config: Mapping[str, Any], processes: Processes) -> tuple[Trainer, RunDir]:
    """Open the run `config["resume"]` at its last checkpoint; `config` holds the run's own values already."""
    run = RunDir.open(config["resume"], "resume")

    def take() -> str:
        summary = run.read_summary()
        if not run.hold():
            raise UserError(f"resume={run.path}: that run is still running, as process {summary.get('pid')}")
        return summary["status"]

    status = processes.on_first(take)
    try:
        return _reopen(config, run, status, processes)
    except BaseException as error:
        run.release()
        if isinstance(error, OSError):
            raise UserError(f"resume={run.path}: {error}") from None
        raise


def _reopen(config: Mapping[str, Any], run: RunDir, status: str, processes: Processes) -> tuple[Trainer, RunDir]:
    device = pick_device(config["device"])
    content = newest(run, device)
    dataset = None if content is None else _data(config, run, content)
    if config.get("compile") == "graphs" and device.type != "cuda":
        config = {**config, "compile": "off"}
        say(f"resume: compile=graphs -> off, for CUDA graphs need device=cuda, and this is {device}")
    trainer, resolved = assemble(config, processes, dataset)
    check_loggers(trainer)
    trainer.saver = RunSaver(run, trainer.state.generator.device)
    if content is None:
        return trainer, run
    checkpoint.same_config(content, resolved, run.last)
    check_processes(run, len(content.get("processes", [None])), processes.world)
    trainer.state.restore(content)
    trainer.keep_candidate()
    if trainer.state.step >= trainer.schedule.steps and status in ENDED:  # otherwise the final evaluation is missing
        raise UserError(
            f"resume={run.path}: already at step {trainer.state.step} of {trainer.schedule.steps}; "
            f"give steps=<more> to train it further"
        )
    if processes.first and (line := difference(content, trainer.state.generator.device)):
        say(line)
    processes.on_first(lambda: run.write_config({**resolved, "resume": None}))
    return trainer, run


def difference(content: Mapping[str, Any], device: torch.device) -> str:
    """Return a line that tells why the bits differ from those of an unbroken run; empty if nothing speaks for it."""
    here, there = machine(device), content["machine"]
    if other_device(content, device):
        return (
            f"resume: the bits will differ from those of an unbroken run: device {there['device']} -> "
            f"{here['device']}, which draws other random numbers, by the seed and step "
            f"{content['counters'].get('step', 0)}"
        )
    differs = [f"{k} {there[k]} -> {here.get(k)}" for k in there if here.get(k) != there[k]]
    return f"resume: the bits may differ from an unbroken run: {', '.join(differs)}" if differs else ""


def _data(config: Mapping[str, Any], run: RunDir, content: Mapping[str, Any]) -> Dataset:
    """Load the data that the run was trained on; reject other data, also if the config was edited to name them."""
    try:
        return same_data(config, content, run.last)
    except UserError as error:
        checkpoint.same_config(content, config, run.last)
        raise UserError(f"{error}{way_out(config, content, RESUMED)}") from None


def check_processes(run: RunDir, there: int, here: int) -> None:
    """Reject a number of processes that differs from the one that trained the run."""
    if there != here:
        start = f"torchrun --nproc_per_node={there} train.py" if there > 1 else "python train.py"
        raise UserError(
            f"resume={run.path}: it was trained by {there} process(es) and can't go on with {here}, for each has its "
            f"own random numbers and chains; start it with {start}"
        )
