"""Write the checkpoints of a run, and find the one from which it resumes."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.shell import pasteable
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.training import checkpoint


class RunSaver:
    """Writes and reads the checkpoints of `run`; tensors are read to `device`."""

    def __init__(self, run: RunDir, device: torch.device | str) -> None:
        self.run, self.device = run, device

    def write(self, which: Literal["last", "best", "good"], content: Mapping[str, Any]) -> None:
        """Replace a checkpoint; if it can't be written, raise OSError and leave the old one."""
        checkpoint.save({"last": self.run.last, "best": self.run.best, "good": self.run.good}[which], dict(content))

    def propose(self) -> None:
        """Copy the last checkpoint to the candidate, which the guard has yet to judge."""
        checkpoint.copy(self.run.last, self.run.candidate)

    def promote(self) -> None:
        """Make the candidate the good checkpoint; a missing one was promoted by a process that was then killed."""
        if self.run.candidate.is_file():
            os.replace(self.run.candidate, self.run.good)

    def read(self, which: Literal["best", "good"]) -> dict[str, Any]:
        """Read that checkpoint."""
        return checkpoint.load({"best": self.run.best, "good": self.run.good}[which], self.device)


def of_run(run: RunDir, file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load one of a run's checkpoints; if it can't be read, the error names those that can."""
    try:
        return checkpoint.load(file, device)
    except UserError as error:
        raise UserError(f"{error}{_others(run, file)}") from None


def newest(run: RunDir, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Load the checkpoint from which a run resumes: the last one, or the initial one if there was no other yet.

    Returns None if the run was killed before its first. Raises UserError rather than take an older checkpoint silently.
    """
    if run.last.is_file():
        return of_run(run, run.last, device)
    if run.good.is_file():
        start = of_run(run, run.good, device)
        if not start.get("counters", {}).get("step"):
            return start
    elif not run.metrics_file.is_file() or not run.metrics_file.stat().st_size:
        return None
    raise UserError(f"{run.last}: no such checkpoint, though the run had come further{_others(run, run.last)}")


def _others(run: RunDir, file: Path) -> str:
    """Name the undamaged checkpoints of a run other than `file`, as the end of a line."""
    whole: dict[str, int] = {}
    for other in (run.last, run.best, run.good, run.candidate):
        with suppress(UserError):
            if other != file:
                whole[other.name] = checkpoint.load(other).get("counters", {}).get("step", 0)
    if not whole:
        return "; no other checkpoint there is whole"
    name = max(whole, key=lambda n: whole[n])
    known = ", ".join(f"{n} (step {step})" for n, step in whole.items())
    return f"; whole there: {known}; to go on from one: {pasteable('cp', run.last.parent / name, file)}"
