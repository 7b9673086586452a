"""The overhead of the training loop over its steps: `fit` with the run directory's own files and a quiet console.

    overhead = (CPU time of `fit`) / (CPU time spent within its steps),    block by block

A block is as many steps as lie between two checkpoints: with the defaults 250, in which five log lines are written, the
guard looks five times and one checkpoint is saved. Evaluations are not counted.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ebm_lab.loggers.console import Console
from ebm_lab.loggers.files import Files
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.runs.saver import RunSaver
from ebm_lab.training.memory import keep_freed_memory
from ebm_lab.training.trainer import Trainer
from scripts.benchmark import ours
from scripts.benchmark.forked import alone
from scripts.benchmark.timing import median_interval

SMALL = ("dataset=two_moons", "energy.hidden=[128,128]", "batch_size=128")
CASES = {
    "ssm, 2-128-128-1, batch 128": ("objective=ssm", *SMALL),
    "pcd, 2-128-128-1, batch 128": ("objective=pcd", "sampler=langevin", *SMALL),
}
"""Cases with steps of about 2 ms, the shortest for which the target holds."""


def loops(compose: ours.Compose, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the overhead of each case in `rounds` blocks."""
    records = []
    for name, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            blocks, each = alone(partial(measured, compose, overrides, Path(folder), rounds))
        ratio = median_interval([whole / steps for whole, steps in blocks])
        records.append({"name": name, "step": min(s for _, s in blocks) / each, "overhead": asdict(ratio)})
        step = records[-1]["step"]
        say(f"loop, {name}: step {1000 * step:.2f} ms, `fit` {ratio.middle:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]")
    return records


def measured(
    compose: ours.Compose, overrides: Sequence[str], folder: Path, rounds: int
) -> tuple[list[tuple[float, float]], int]:
    """Measure in a process of its own; return the blocks and their number of steps."""
    keep_freed_memory()
    trainer = ours.build(compose, [*overrides, f"output_dir={folder}"], 1, ours.BASELINE)
    return overhead(trainer, folder, rounds), size(trainer)


def size(trainer: Trainer) -> int:
    """Return the number of steps of a block."""
    return trainer.schedule.checkpoint_every


def overhead(trainer: Trainer, folder: Path, rounds: int) -> list[tuple[float, float]]:
    """Return (CPU-seconds of `fit`, CPU-seconds within its steps) of each block after the first, which warms up."""
    run = RunDir.create(folder, "loop")
    run.write_config(dict(trainer.state.config))
    trainer.saver, trainer.say = RunSaver(run, "cpu"), lambda line: None
    console = Console(trainer.schedule.steps, 0, trainer.state.objective.headline, quiet=True)
    files = Files(run.metrics_file, run.images, 0, (), trainer.say)
    trainer.loggers = (files, console)
    within, bare = 0.0, trainer._train_step

    def timed(step: int) -> None:
        nonlocal within
        began = time.process_time()
        bare(step)
        within += time.process_time() - began

    trainer._train_step = timed
    blocks = []
    for block in range(rounds + 1):
        # The last step of a `fit` logs and saves, as the last step of this many does anyway.
        trainer.schedule = replace(trainer.schedule, steps=(block + 1) * size(trainer), eval_every=10**9)
        within, began = 0.0, time.process_time()
        trainer.fit()
        blocks.append((time.process_time() - began, within))
    for logger in trainer.loggers:
        logger.close({})
    run.release()
    return blocks[1:]
