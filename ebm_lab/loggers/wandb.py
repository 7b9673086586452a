"""Weights & Biases: online if an API key exists, else offline. It never prompts and never ends a run.

All runs share one directory (`directory`), so that `wandb leet` and `wandb sync` find them together. The W&B run opens
at the first call, after training has begun, so that a slow network does not delay training. After any failure one line
is printed and the run goes on without W&B. A slow or absent service costs at most `init_timeout` plus `finish_timeout`
seconds; what it has not received stays on disk for `wandb sync`.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt, ValidationError
from torch import Tensor

from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.places import Place
from ebm_lab.core.registry import metrics, register
from ebm_lab.core.shell import pasteable
from ebm_lab.loggers.wandb_settings import check_names, switched_off

TICK = "tick"
"""Name of a file in W&B's run directory that holds the last value of W&B's step."""
FACTS = ("git_commit", "command", "host", "versions", "parameters")


@register("logger", "wandb")
class WandB:
    """Log to Weights & Biases.

    `mode`: online, offline, disabled, or auto (what WANDB_MODE or WANDB_DISABLED says, else online if a key exists).
    `project`, `group`, `job_type`, `tags`: as in W&B. `checkpoints`: also upload the last and the best checkpoint, as
    an artifact. `directory`: folder for W&B's files. `init_timeout`: seconds to wait for the service before going
    offline. `finish_timeout`: seconds to wait at the end of the run for the upload to finish.
    """

    def __init__(
        self,
        info: RunInfo,
        *,
        mode: Literal["auto", "online", "offline", "disabled"],
        project: str,
        group: str | None,
        job_type: str,
        tags: list[str],
        checkpoints: bool,
        directory: Place,
        init_timeout: PositiveInt,
        finish_timeout: PositiveInt,
    ) -> None:
        self.info, self.mode = info, mode
        self.init_timeout, self.finish_timeout = init_timeout, finish_timeout
        self.project, self.group, self.tags, self.directory = project, group, tags, Path(directory)
        self.job_type, self.checkpoints = job_type, checkpoints
        self.id = info.name.replace(".", "-")
        self.run: Any = None
        self.broken = switched_off(mode)
        self.step = self.ticks = self.first_tick = 0
        if not self.broken:
            check_names(project, tags)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda run: run.log({**values, "step": step}, step=self._tick(run, step)))

    def image(self, name: str, image: Tensor, step: int) -> None:
        def send(run: Any) -> None:
            import wandb

            picture = wandb.Image(image.permute(1, 2, 0).numpy())
            run.log({name: picture, "step": step}, step=self._tick(run, step))

        self._try(send)

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.run is None:
            return
        status = summary.get("status")

        def finish(run: Any) -> None:
            sync = pasteable("wandb sync", _relative(Path(run.settings.sync_dir)))
            if self.checkpoints:
                self._upload_checkpoints(run)
            run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float, str))})
            try:
                run.finish(exit_code=0 if status in ("finished", "interrupted") else 1)
            except TimeoutError:
                self.info.say(
                    f"W&B: the service did not take everything within {self.finish_timeout} s; "
                    f"upload the rest later: {sync}"
                )
                return
            if reason := refusal(run):
                self.info.say(f"W&B: the service no longer takes the run ({reason}); upload the rest later: {sync}")

        self._try(finish)
        if self.broken:  # else W&B would add this process's next run to it
            with suppress(Exception):
                self.run.finish(exit_code=1)

    def _upload_checkpoints(self, run: Any) -> None:
        import wandb

        artifact = wandb.Artifact(f"checkpoints-{run.id}", type="model")
        for file in ("last.pt", "best.pt"):
            if (self.info.path / "checkpoints" / file).is_file():
                artifact.add_file(str(self.info.path / "checkpoints" / file))
        artifact.add_file(str(self.info.path / "config.yaml"))
        run.log_artifact(artifact)

    def _tick(self, run: Any, step: int) -> int:
        """Return W&B's step, which must never decrease: the training step plus the steps undone by rollbacks and kills.

        It is saved in W&B's run directory, so that a resumed offline run continues after the steps already logged.
        """
        if step != self.step:
            self.ticks = max(self.ticks + max(1, step - self.step), run.step, self.first_tick)
            self.step = step
            with suppress(OSError):
                Path(run.settings.sync_dir, TICK).write_text(str(self.ticks), encoding="utf-8")
        return self.ticks

    def _try(self, action: Any) -> None:
        if self.broken:
            return
        try:
            if self.run is None:
                self.run = self._open()
            action(self.run)
        except Exception as error:
            self.broken = True
            self.info.say(f"W&B: {_first(error)}; the run goes on without it")

    def _open(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        # W&B's error reports would delay the end of the process by half a minute or more if the service is absent.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        online = self.mode == "online" or (self.mode == "auto" and self._has_key(wandb))
        if online:
            try:
                return self._init(wandb, "online")
            except Exception as error:
                self.info.say(f"W&B: the service does not take the run ({_first(error)}); logging offline instead")
        # A failed online init leaves its run id in use within the process, so the offline run needs another.
        suffix = "-offline" if online else ""
        earlier = self._parts(suffix)
        self.first_tick = 1 + max(map(_tick_of, earlier), default=-1)
        run = self._init(wandb, "offline", suffix)
        where = Path(run.settings.sync_dir)
        parts = [_relative(part) for part in (*earlier, where)]
        view = pasteable("wandb leet", _relative(self.directory / "wandb"))
        self.info.say(f"W&B: offline; view: {view}; upload later: {pasteable('wandb sync', *parts)}")
        return run

    def _parts(self, suffix: str) -> list[Path]:
        """Return the W&B directories of the run's earlier processes, oldest first."""
        found = (self.directory / "wandb").glob(f"*run-*-{self.id}{suffix}")
        return sorted(found, key=lambda path: path.name.partition("run-")[2])

    def _has_key(self, wandb: Any) -> bool:
        try:
            return bool(wandb.login(prompt=False, verify=False))
        except Exception as error:
            self.info.say(f"W&B: the key can't be used ({_first(error)})")
            return False

    def _init(self, wandb: Any, mode: str, suffix: str = "") -> Any:
        self.directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            group=self.group,
            job_type=self.job_type,
            tags=self.tags or None,  # None stands for those of WANDB_TAGS
            name=os.environ.get("WANDB_NAME") or self.info.name,
            id=self.id + suffix,
            config={**self.info.config, "facts": self._facts()},
            dir=self.directory,
            mode=mode,
            resume="allow",  # offline too, so that an upload appends each part of the run
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=self.init_timeout,
                finish_timeout=self.finish_timeout,
                finish_timeout_raises=True,
                silent=True,
                console="off",
            ),
        )
        describe(run)
        return run

    def _facts(self) -> dict[str, Any]:
        """Return the code, command and machine of the run from its summary.json, and its directory."""
        try:
            known = json.loads((self.info.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return {"run": str(self.info.path), **{k: known.get(k) for k in FACTS}}


def describe(run: Any) -> None:
    """Plot all metrics against the training step, and summarise by its best value each metric that has a direction."""
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    table = metrics()
    for names, best in ((table.good("lower"), "min"), (table.good("higher"), "max")):
        for name in names:
            run.define_metric(f"val/{name}", step_metric="step", summary=f"{best},last")


def refusal(run: Any) -> str | None:
    """Return why the service refused data after the run was opened; None if it accepted everything.

    The reason is read from the log of W&B's process, because wandb reports it only on the terminal.
    """
    try:
        lines = Path(run.settings.log_internal).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, AttributeError, TypeError):
        return None
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["level"].startswith("ERROR") and row["msg"].startswith(("filestream:", "runfiles:")):
                return row["msg"].split(" url=")[0].rpartition(": ")[2][:120]
    return None


def _tick_of(part: Path) -> int:
    try:
        return int((part / TICK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return -1


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())[:200]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _relative(path: Path) -> str:
    return os.path.relpath(path)
