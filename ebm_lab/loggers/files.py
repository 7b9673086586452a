"""The run directory's own record: `metrics.jsonl` and `images/*.png`, whatever other logger a run has."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ebm_lab.core.files import dumps, loads, write_atomic
from ebm_lab.core.pictures import save_png


class Files:
    """Begins after `step`: lines of later steps, left by a process that was killed, and a line cut in its middle are
    dropped, for a resumed run writes them again. Lines with the key `event` are rollbacks; without them, steps rise."""

    def __init__(
        self,
        metrics: Path,
        images: Path,
        step: int,
        events: Sequence[Mapping[str, Any]] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.metrics, self.images, self.say = metrics, images, say
        self.waiting: list[str] = []
        self.file = open(metrics, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        if bad := damaged(metrics):
            kept = metrics.with_name(metrics.name + ".damaged")
            shutil.copyfile(metrics, kept)
            say(f"{metrics}: {bad} damaged line(s) dropped; the file as it was: {kept.name}")
        self.rewind(step, events)

    def rewind(self, step: int, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep the metrics up to `step` and put each of `events` behind those of its own step; replaced whole."""
        self.file.close()
        known = [*rows(self.metrics), *map(loads, self.waiting)]
        kept = [row for row in known if row["step"] <= step and "event" not in row]
        kept = sorted([*kept, *events], key=lambda row: (row["step"], "event" in row))
        write_atomic(self.metrics, "".join(dumps(row) + "\n" for row in kept))
        self.waiting = []
        self.file = open(self.metrics, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self.whole = self.file.tell()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.waiting.append(dumps({"step": step, **values}) + "\n")
        self._write()

    def _write(self) -> None:
        """Write what waits, behind the last whole line; what a full disk does not take waits on."""
        lines = "".join(self.waiting).encode()
        try:
            if self.file.tell() != self.whole:
                self.file.truncate(self.whole)
                self.file.seek(self.whole)
            if self.file.write(lines) < len(lines):
                raise OSError("no space left for a whole line")
        except OSError as problem:
            if len(self.waiting) == 1:
                self.say(f"{self.metrics} can't be written ({problem}); its lines wait in memory until it can")
            return
        self.waiting, self.whole = [], self.whole + len(lines)

    def image(self, name: str, image: Tensor, step: int) -> None:
        path = self.images / f"{name.replace('/', '_')}_{step:07d}.png"
        try:
            save_png(image, path)
        except OSError as problem:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            self.say(f"{path} can't be written ({problem}); training goes on")

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.waiting:
            self._write()
        self.file.close()


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; one that a kill cut is left out."""
    return [row for row in map(_row, path.read_bytes().splitlines(keepends=True)) if row is not None]


def damaged(path: Path) -> int:
    """How many lines of a metrics.jsonl, its last one aside, are no rows: no kill leaves such."""
    return sum(_row(line) is None for line in path.read_bytes().splitlines(keepends=True)[:-1])


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
