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

from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.directions import HIGHER, LOWER
from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register

FACTS = ("git_commit", "command", "host", "versions", "parameters")


@register("logger", "wandb")
class WandB:
    """`mode`: auto (online if a key exists), online or offline; `init_timeout`: seconds to wait for the service before
    going offline; `finish_timeout`: seconds that the end of the run waits for what is not uploaded yet; `project`,
    `group`, `job_type`, `tags`: as W&B has them; `checkpoints`: keep the last and the best checkpoint there too, as an
    artifact."""

    def __init__(
        self,
        info: RunInfo,
        *,
        mode: Literal["auto", "online", "offline"],
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
        self.run: Any = None
        self.broken = False
        self.step = self.ticks = 0

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
            where = _relative(Path(run.settings.sync_dir))
            if self.checkpoints:
                self._keep(run)
            run.summary.update({k: v for k, v in summary.items() if isinstance(v, (int, float, str))})
            try:
                run.finish(exit_code=0 if status in ("finished", "interrupted") else 1)
            except TimeoutError:
                self.info.say(
                    f"W&B: the service did not take everything within {self.finish_timeout} s; "
                    f"upload the rest later: wandb sync {where}"
                )

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
        """W&B's own step, which may never fall: the training step, ahead of it by what rollbacks took back."""
        if step != self.step:
            self.ticks = max(self.ticks + max(1, step - self.step), run.step)
            self.step = step
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

        online = self.mode == "online" or (self.mode == "auto" and _has_key(wandb))
        if online:
            try:
                return self._init(wandb, "online")
            except Exception as error:
                self.info.say(f"W&B: the service does not take the run ({_first(error)}); logging offline instead")
        # A failed online init keeps its run id in use within the process: the offline run takes another.
        run = self._init(wandb, "offline", "-offline" if online else "")
        where = Path(run.settings.sync_dir)
        self.info.say(
            f"W&B: offline; view: wandb leet {self.directory / 'wandb'}; upload later: wandb sync {_relative(where)}"
        )
        return run

    def _init(self, wandb: Any, mode: str, suffix: str = "") -> Any:
        self.directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            group=self.group,
            job_type=self.job_type,
            tags=self.tags,
            name=self.info.name,
            id=self.info.name.replace(".", "-") + suffix,
            config={**self.info.config, "facts": self._facts()},
            dir=self.directory,
            mode=mode,
            resume="allow" if mode == "online" else None,
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
            known = json.loads((self.info.path / "summary.json").read_text())
        except (OSError, ValueError):
            known = {}
        return {"run": str(self.info.path), **{k: known.get(k) for k in FACTS}}


def describe(run: Any) -> None:
    """Plot everything against the training step, and keep the best of what is better low or high."""
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    for names, best in ((LOWER, "min"), (HIGHER, "max")):
        for name in names:
            run.define_metric(f"val/{name}", step_metric="step", summary=f"{best},last")


def _has_key(wandb: Any) -> bool:
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except Exception:
        return False


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _relative(path: Path) -> str:
    return os.path.relpath(path)
