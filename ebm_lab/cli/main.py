"""The command line of `train.py`."""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm_lab.cli.commands import command, complain, import_from_here, stop_if_asked
from ebm_lab.core.streams import safe_streams, say

if TYPE_CHECKING:
    from ebm_lab.cli.arguments import Arguments
    from ebm_lab.cli.settle import Settled
    from ebm_lab.core.logger import Logger
    from ebm_lab.runs.train import Result
    from ebm_lab.training.trainer import Trainer

BEGAN = time.perf_counter()


def main() -> None:
    """Compose, validate, train; see `--help` for the exit status."""
    # Threads that spin while they wait take cores from other runs on the machine; OpenMP reads this variable once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if "RANK" in os.environ:  # silences torch's internal warnings at every start
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with command():
        from ebm_lab.cli.arguments import sort

        arguments = sort(sys.argv[1:])
        if "--help" in arguments.options or any(o.endswith("=?") for o in arguments.overrides):
            from ebm_lab.cli.manual import help_for

            print(help_for(arguments), end="")
            return
        status = _hydra(arguments)
    sys.exit(status)


def _hydra(arguments: "Arguments") -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from ebm_lab.cli.compose import config_dir, explain, plain, readable, translations
    from ebm_lab.cli.own_hydra import assembled
    from ebm_lab.cli.refused_code import refuse_code
    from ebm_lab.core.errors import UserError

    statuses: list[int] = []

    @hydra.main(config_path=str(config_dir()), config_name="train", version_base="1.3")
    def job(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise UserError("torchrun trains one run: leave -m out, or give a sweep hydra/launcher=joblib instead")
            return one_of_many()
        try:
            statuses.append(run_composed(plain(config), overrides, notes, (BEGAN, 0.0)).exit_status)
        except UserError as error:  # printed here, because Hydra would add lines of its own
            statuses.append(complain(error))

    extra = arguments.folders("--config-dir")
    searched = [
        Path(p)
        for o in arguments.overrides
        if o.startswith("hydra.searchpath")
        for p in re.findall(r"file://([^\],'\"]+)", o)
    ]
    refuse_code(sys.argv[1:], [*extra, *arguments.folders("--config-path"), *searched])
    overrides = readable(arguments.overrides, extra)
    try:
        found = _settled(arguments, overrides, [*extra, *searched])
        notes = [*translations(arguments.overrides, extra), *found.notes]
        for note in notes if found.sweep else ():
            say(note)
        sys.argv[1:] = arguments.argv(found.overrides)  # the only place where Hydra reads them from
        with assembled(found.recipe):
            job()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, extra) from None
    except OSError as error:  # from making the sweep's directory, which Hydra does
        raise UserError(str(error)) from None
    from ebm_lab.cli import sweep

    return statuses[0] if statuses else sweep.exit_status(sweep.current[-1]) if sweep.current else 0


def _settled(arguments: "Arguments", overrides: list[str], extra: list[Path]) -> "Settled":
    """Resolve the domain and the recipe of these overrides; with a main config of the user's own, change nothing."""
    from ebm_lab.cli.compose import GROUPS, config_dir
    from ebm_lab.cli.settle import Settled, Source, settle

    if {"--config-path", "--config-name"} & arguments.options.keys():
        return Settled(overrides)
    many = "--multirun" in arguments.options
    try:
        return settle(Source(config_dir(), extra), overrides, GROUPS, sweep=True if many else None)
    except Exception:
        if many:  # Hydra reads every form of sweep, and reports what is wrong
            return Settled(overrides, sweep=True)
        raise


def run_composed(
    config: dict[str, Any],
    overrides: list[str],
    notes: list[str],
    began: tuple[float, float],
    watch: "Callable[[Trainer], Sequence[Logger]]" = lambda trainer: (),
) -> "Result":
    """Run one composed config; `notes` tell the user how it came about, `watch` makes further loggers."""
    from ebm_lab.cli.api import resumed
    from ebm_lab.runs.train import train
    from ebm_lab.training.memory import keep_freed_memory

    stop_if_asked()
    import_from_here()
    keep_freed_memory()
    for note in notes if os.environ.get("RANK", "0") == "0" else ():
        say(note)
    return train(resumed(config, overrides), began=began, watch=watch)


def composed_again(overrides: list[str], hydra: Any) -> tuple[dict[str, Any], list[str]]:
    """Compose the config of one job of a sweep, with the domain and the recipe of its own choices.

    hydra: Hydra's own settings, which say where configs are.
    """
    from ebm_lab.cli.compose import settled
    from ebm_lab.cli.settle import Source

    places = [(s.provider, Path(s.path)) for s in hydra.runtime.config_sources if s.schema == "file"]
    (primary, *_), extra = ([p for who, p in places if (who == "main") == ours] for ours in (True, False))
    return settled(Source(primary, extra, hydra.job.config_name or "train"), overrides)


stopped: list[int] = []
"""Exit status of a job that a signal ended; this process then starts no further jobs of the sweep."""


@safe_streams()
def one_of_many() -> None:
    """Run one job of a sweep, perhaps in a process of its own; record how it ended, and let no failure stop others."""
    import traceback

    from hydra.core.hydra_config import HydraConfig

    from ebm_lab.cli.sweep import alike, record
    from ebm_lab.core.errors import Terminated, UserError
    from ebm_lab.core.logger import loggers_of

    hydra = HydraConfig.get()
    folder, number, overrides = Path(hydra.sweep.dir), int(hydra.job.num), list(hydra.overrides.task)
    if stopped:
        return record(folder, number, overrides, status="not started", exit=stopped[0])
    began = time.perf_counter(), time.process_time()
    try:
        config, notes = composed_again(overrides, hydra)
        if config["threads"] == "auto" and "basic" not in hydra.launcher._target_.lower():
            config["threads"] = 1
        if alike:  # this process leads the sweep and runs all its jobs
            config["runs_alike"] = alike[-1]
        for logger in loggers_of(config["logger"]).values():
            if logger.get("group", "") is None:
                logger["group"] = folder.name
        from ebm_lab.cli.pruning import watch

        watching = watch(folder, number, hydra.sweeper.get("pruner", "none"), hydra.sweeper.get("startup", 0))
        result = run_composed(config, overrides, notes, began, watching)
    except UserError as error:
        return record(folder, number, overrides, status="refused", exit=complain(error), message=str(error))
    except KeyboardInterrupt as stop:  # raised before the run began; later, the run itself ends as interrupted
        stopped.append(75 if isinstance(stop, Terminated) else 130)
        return record(folder, number, overrides, status="not started", exit=stopped[0])
    except Exception as error:
        traceback.print_exc()
        return record(folder, number, overrides, status="failed", exit=1, message=f"{type(error).__name__}: {error}")
    numbers = {k: v for k, v in result.summary.items() if isinstance(v, int | float) and k not in ("pid", "format")}
    known = {"status": result.status, "exit": result.exit_status, "run": str(result.path), "results": numbers}
    record(folder, number, overrides, **known)
    if result.status == "interrupted":
        stopped.append(result.exit_status)
