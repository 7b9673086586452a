"""Run a config from start to end: make or resume its directory, train, evaluate, and write the summary."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ebm_lab.core.errors import Diverged, Terminated, UserError
from ebm_lab.core.files import dumps
from ebm_lab.core.interfaces import Dataset, Logger
from ebm_lab.core.shell import override, pasteable
from ebm_lab.loggers.console import Console
from ebm_lab.loggers.files import Files
from ebm_lab.runs.assemble import assemble
from ebm_lab.runs.init_from import data_like, start_difference, take_weights
from ebm_lab.runs.isolation import isolated
from ebm_lab.runs.load import load_run
from ebm_lab.runs.record import build_loggers, check_loggers, describe, fingerprint, introduce, label, rows
from ebm_lab.runs.resume import reopen, unfinished
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.runs.saver import RunSaver
from ebm_lab.runs.signals import Signals
from ebm_lab.training.costs import device_costs, watch_memory
from ebm_lab.training.distributed import Processes
from ebm_lab.training.numerics import repeatable
from ebm_lab.training.trainer import ENDS, Trainer

PRUNED = "pruned"
"""Status of a run that a search stopped, because other runs did better."""
EXIT = {"finished": 0, PRUNED: 0, "failed": 1, "diverged": 3, "interrupted": 130, "SIGTERM": 75, "SIGHUP": 75}
"""Exit status by the run's status, or by the signal that ended it; 2 is a mistake in the settings. 75 is the temporary
failure of sysexits.h: run the same command again, with resume."""


@dataclass(frozen=True)
class Result:
    """The result of a run: its directory, `summary.json` as a dict, and the trained energy with averaged weights."""

    path: Path
    summary: dict[str, Any]
    energy: nn.Module
    dataset: Dataset

    @property
    def status(self) -> str:
        return self.summary["status"]

    @property
    def exit_status(self) -> int:
        ended = self.summary.get("ended_by")
        return EXIT[ended if self.status == "interrupted" and ended in EXIT else self.status]


@isolated()
def train(
    config: Mapping[str, Any],
    *,
    quiet: bool = False,
    began: tuple[float, float] | None = None,
    watch: Callable[[Trainer], Sequence[Logger]] = lambda trainer: (),
) -> Result:
    """Run a plain config to its end; its `resume` continues a run, its `init_from` starts from another run's weights.

    began: wall and CPU clock at the start of the process, for the costs in the summary; now by default. watch: makes
    further loggers of the first process.
    """
    began = began or (time.perf_counter(), time.process_time())
    processes = Processes.join()
    request = fingerprint(config)
    if config.get("resume") == "auto":
        root = Path(config["output_dir"])
        found, config = processes.on_first(lambda: unfinished(root, config, request))
        if found is not None:
            return ended(RunDir(found), config["plugins"])
    if config.get("resume"):
        trainer, run = reopen(config, processes)
        request = processes.on_first(lambda: run.read_summary().get("request", request))
    else:
        trainer, resolved = assemble(config, processes, data_like(config))
        if config.get("init_from"):
            points = trainer.evaluations.dataset.train[:64]
            other = take_weights(trainer.state, str(config["init_from"]))
            trainer.notes = [*trainer.notes, *start_difference(trainer.state.objective.energy, other, points)]
        check_loggers(trainer)
        run = begin(Path(config["output_dir"]), resolved, processes)
    try:
        return _train(trainer, run, request, quiet or not processes.first, began, watch)
    except OSError as error:
        raise UserError(f"{run.path}: can't be written: {error}") from None
    finally:
        run.release()


def begin(root: Path, config: dict[str, Any], processes: Processes) -> RunDir:
    """Create a run directory; the first process holds it, and all processes get its path."""
    held: list[RunDir] = []

    def make() -> Path:
        held.append(RunDir.create(root, label(config)))
        held[0].write_config(config)
        return held[0].path

    try:
        path = processes.on_first(make)
    except BaseException:
        for run in held:
            run.release()
        raise
    return held[0] if held else RunDir(path)


def _train(
    trainer: Trainer,
    run: RunDir,
    request: str,
    quiet: bool,
    began: tuple[float, float],
    watch: Callable[[Trainer], Sequence[Logger]],
) -> Result:
    state = trainer.state
    trainer.saver = RunSaver(run, state.generator.device)
    with ExitStack() as on_early_exit:
        console = Console(trainer.schedule.steps, state.step, state.objective.headline, quiet, trainer.note)
        on_early_exit.callback(console.close, {})
        trainer.say = console.say
        trainer.clock.start(state.costs, time.perf_counter() - began[0], time.process_time() - began[1])
        if state.processes.first:
            files = Files(run.metrics_file, run.images, state.step, state.guard.events, console.say)
            on_early_exit.callback(files.close, {})
            trainer.rewound = files.rewind
            loggers = build_loggers(trainer, run.path, console.say, trainer.say_once)
            for logger in loggers:
                on_early_exit.callback(logger.close, {"status": "interrupted"})
            trainer.loggers = (files, console, *loggers, *watch(trainer))
        introduce(trainer, run)
        facts = {"request": request, **describe(trainer)}
        on_early_exit.pop_all()
    watch_memory(state.generator.device)
    with repeatable(state.config["deterministic"], state.generator.device):
        summary = live(trainer, run, facts)
    console.table("results", rows(summary))
    console.say(str(run.path))
    with state.ema.applied():
        energy = state.objective.model()
        weights = {k: v.clone() for k, v in energy.state_dict().items()}
    energy.load_state_dict(weights)
    energy.eval()
    return Result(run.path, summary, energy, trainer.evaluations.dataset)


def ended(run: RunDir, plugins: Sequence[str]) -> Result:
    """Load the result of a run that has ended."""
    loaded = load_run(run.path, plugins=plugins)
    return Result(run.path, loaded.summary, loaded.energy, loaded.dataset)


def live(trainer: Trainer, run: RunDir, facts: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate on the test split, and close; the summary is written however the run ends."""
    trainer.state.processes.on_first(
        lambda: run.write_summary({"status": "running", **facts, **vars(trainer.state.costs)})
    )
    final: dict[str, Any] = {}
    error: Exception | None = None
    torn = False
    with Signals(trainer) as signals:
        try:
            status = _fit(trainer, signals, final)
        except Diverged as problem:
            status, final["message"] = "diverged", str(problem)
            trainer.say(f"diverged: {problem}")
        except KeyboardInterrupt as stop:
            status, torn = "interrupted", True
            final["ended_by"] = trainer.stop or ("SIGTERM" if isinstance(stop, Terminated) else "SIGINT")
        except Exception as problem:
            status, torn = "failed", True
            final["message"] = f"{type(problem).__name__}: {problem}"
            error = UserError(final["message"]) if isinstance(problem, OSError) else problem
        signals.phase = "closing"
        summary = _close(trainer, run, status, final, facts, torn)
    if summary["status"] == "interrupted":
        again = pasteable("python train.py", override("resume", run.path))
        trainer.say(f"interrupted at step {trainer.state.step}; continue with: {again}")
    if error is not None:
        raise error
    return summary


def _fit(trainer: Trainer, signals: Signals, final: dict[str, Any]) -> str:
    """Train and evaluate; return the status and fill `final` for the summary."""
    final["ended_by"] = ended = trainer.fit()
    if ended == PRUNED:
        trainer.say(f"pruned at step {trainer.state.step}: other runs of the search did better by then")
        return PRUNED
    if ended not in ENDS:
        return "interrupted"
    signals.phase = "evaluating"
    final |= trainer.evaluate("test")
    if trainer.failed:
        final["failed_evaluations"] = trainer.failed
    if trainer.unsaved is not None:
        trainer.save()
    if found := trainer.state.guard.check_final(final):
        tips = trainer.advise(found, False)
        raise Diverged(f"step {trainer.state.step}: {found[0].seen}. {tips}")
    for line in trainer.state.guard.warnings_final(final):
        trainer.say_once(line)
    return "finished"


def _close(
    trainer: Trainer, run: RunDir, status: str, final: dict[str, Any], facts: dict[str, Any], torn: bool
) -> dict[str, Any]:
    """Write the summary, close the loggers and return the summary.

    torn: this process stopped at an arbitrary point, so the others can't be waited for.
    """
    c, processes = trainer.state.costs, trainer.state.processes
    if trainer.unsaved is not None:
        status, final["message"] = "failed", f"the checkpoint of step {c.step} could not be saved: {trainer.unsaved}"
    if status in ("diverged", "failed"):
        final["ended_by"] = status
    trainer.clock.tick(c)
    trained = max(1e-9, c.seconds - c.startup_seconds - c.eval_seconds)
    summary = {"status": status, **final, **vars(c), "steps_per_second": round(c.step / trained, 3), **facts}
    summary |= {"train_cpu_seconds": c.train_cpu_seconds, "rollbacks": len(trainer.state.guard.events)}
    summary["said"] = trainer.said
    if not torn or processes.world == 1:
        summary |= processes.total(c.cpu) | device_costs(trainer.state.generator.device, c, processes)
    with ExitStack() as stack:
        for logger in reversed(trainer.loggers):
            stack.callback(logger.close, summary)
        try:
            if processes.first:
                run.write_summary(summary)
        except OSError as problem:
            text = dumps(summary)
            raise UserError(f"{run.summary_file} can't be written ({problem.strerror}): {text}") from None
    return summary
