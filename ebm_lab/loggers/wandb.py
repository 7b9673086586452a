"""Weights & Biases: online where an API key exists, else offline; never a prompt, and never the end of a run.

All runs of a machine share one directory (`directory`), so that `wandb leet` and `wandb sync` find them together. The
run opens at the first call, after training has begun, for a slow network must not delay it; whatever goes wrong in
here is said once and the run goes on without. A service that is gone or slow costs a run `init_timeout` plus
`finish_timeout` seconds at most; what it did not take lies on the disk for `wandb sync`.
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
"""A file beside W&B's own, with the last value of W&B's step."""
FACTS = ("git_commit", "command", "host", "versions", "parameters")


@register("logger", "wandb")
class WandB:
    """`mode`: auto (what WANDB_MODE or WANDB_DISABLED says, else online if a key exists), online, offline or disabled;
    `init_timeout`: seconds to wait for the service before going offline; `finish_timeout`: seconds that the end of the
    run waits for what is not uploaded yet; `project`, `group`, `job_type`, `tags`: as W&B has them; `checkpoints`: keep
    the last and the best checkpoint there too, as an artifact."""

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
        self.step = self.ticks = self.least = 0
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
                self._keep(run)
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
        if self.broken:  # or the next run of this process would be taken for a part of it
            with suppress(Exception):
                self.run.finish(exit_code=1)

    def _keep(self, run: Any) -> None:
        import wandb

        artifact = wandb.Artifact(f"checkpoints-{run.id}", type="model")
        for file in ("last.pt", "best.pt"):
            if (self.info.path / "checkpoints" / file).is_file():
                artifact.add_file(str(self.info.path / "checkpoints" / file))
        artifact.add_file(str(self.info.path / "config.yaml"))
        run.log_artifact(artifact)

    def _tick(self, run: Any, step: int) -> int:
        """W&B's own step, which may never fall: the training step, ahead of it by what rollbacks and kills took back.

        It is kept beside W&B's own file, so that a run that goes on offline begins behind what it sent before.
        """
        if step != self.step:
            self.ticks = max(self.ticks + max(1, step - self.step), run.step, self.least)
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
        # W&B's reports on itself: where the service is gone, the process's end waits for them half a minute and more.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        online = self.mode == "online" or (self.mode == "auto" and self._has_key(wandb))
        if online:
            try:
                return self._init(wandb, "online")
            except Exception as error:
                self.info.say(f"W&B: the service does not take the run ({_first(error)}); logging offline instead")
        # A failed online init keeps its run id in use within the process: the offline run takes another.
        suffix = "-offline" if online else ""
        earlier = self._parts(suffix)
        self.least = 1 + max(map(_tick_of, earlier), default=-1)
        run = self._init(wandb, "offline", suffix)
        where = Path(run.settings.sync_dir)
        parts = [_relative(part) for part in (*earlier, where)]
        view = pasteable("wandb leet", _relative(self.directory / "wandb"))
        self.info.say(f"W&B: offline; view: {view}; upload later: {pasteable('wandb sync', *parts)}")
        return run

    def _parts(self, suffix: str) -> list[Path]:
        """What earlier processes of the run logged, oldest first: each has a directory of its own."""
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
            tags=self.tags or None,  # None: those of WANDB_TAGS
            name=os.environ.get("WANDB_NAME") or self.info.name,
            id=self.id + suffix,
            config={**self.info.config, "facts": self._facts()},
            dir=self.directory,
            mode=mode,
            resume="allow",  # offline too: an upload then adds each part of the run to those before
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
        """Which code made the run and where it lies, as its summary.json has told since the start."""
        try:
            known = json.loads((self.info.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return {"run": str(self.info.path), **{k: known.get(k) for k in FACTS}}


def describe(run: Any) -> None:
    """Plot everything against the training step, and keep the best of what is better low or high."""
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    table = metrics()
    for names, best in ((table.good("lower"), "min"), (table.good("higher"), "max")):
        for name in names:
            run.define_metric(f"val/{name}", step_metric="step", summary=f"{best},last")


def refusal(run: Any) -> str | None:
    """Why the service refused what came after the run was opened, as W&B's own process has written it into its log;
    None where it took everything. wandb tells it to the terminal alone."""
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
