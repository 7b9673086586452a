"""The checkpoints of a run: where each is written, and which one a run takes up again."""

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
    """The checkpoints under `run`; read to `device`."""

    def __init__(self, run: RunDir, device: torch.device | str) -> None:
        self.run, self.device = run, device

    def write(self, which: Literal["last", "best", "good"], content: Mapping[str, Any]) -> None:
        """Replace that checkpoint; raises OSError and leaves the old one where it can't be written."""
        checkpoint.save({"last": self.run.last, "best": self.run.best, "good": self.run.good}[which], dict(content))

    def propose(self) -> None:
        """Set the last checkpoint aside as one that may prove good."""
        checkpoint.copy(self.run.last, self.run.candidate)

    def promote(self) -> None:
        """Make the candidate the good checkpoint; where it is gone, a process that was killed had done so."""
        if self.run.candidate.is_file():
            os.replace(self.run.candidate, self.run.good)

    def read(self, which: Literal["best", "good"]) -> dict[str, Any]:
        """Read that checkpoint."""
        return checkpoint.load({"best": self.run.best, "good": self.run.good}[which], self.device)


def of_run(run: RunDir, file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """`load` one of a run's checkpoints; where it can't be read, the error names those that can."""
    try:
        return checkpoint.load(file, device)
    except UserError as error:
        raise UserError(f"{error}{_others(run, file)}") from None


def newest(run: RunDir, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The state that a resumed run takes up: its last one, or the initial one if it was killed before there was
    another; None if it was killed before that. An older one is never taken in silence."""
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
    """The whole checkpoints of a run beside `file`, as the end of a line."""
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
