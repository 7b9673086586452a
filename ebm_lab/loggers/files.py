"""The run directory's own record, `metrics.jsonl` and `images/*.png`, which every run has."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ebm_lab.core.files import dumps, loads, write_atomic
from ebm_lab.core.pictures import save_png


class Files:
    """Append metrics and pictures to a run directory, beginning after `step`.

    Lines of later steps, left by a process that was killed, and incomplete lines are dropped, since the resumed run
    writes them again. Lines with the key `event` are rollbacks; the steps of all other lines increase.
    """

    def __init__(
        self,
        metrics: Path,
        images: Path,
        step: int,
        events: Sequence[Mapping[str, Any]] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.metrics, self.images, self.say = metrics, images, say
        self.pending: list[str] = []
        self.file = open(metrics, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        if bad := damaged(metrics):
            kept = metrics.with_name(metrics.name + ".damaged")
            shutil.copyfile(metrics, kept)
            say(f"{metrics}: {bad} damaged line(s) dropped; the file as it was: {kept.name}")
        self.rewind(step, events)

    def rewind(self, step: int, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep the metrics up to `step`, with `events` after those of the same step; replaces the file atomically."""
        self.file.close()
        known = [*rows(self.metrics), *map(loads, self.pending)]
        kept = [row for row in known if row["step"] <= step and "event" not in row]
        kept = sorted([*kept, *events], key=lambda row: (row["step"], "event" in row))
        write_atomic(self.metrics, "".join(dumps(row) + "\n" for row in kept))
        self.pending = []
        self.file = open(self.metrics, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self.end = self.file.tell()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.pending.append(dumps({"step": step, **values}) + "\n")
        self._write()

    def _write(self) -> None:
        """Write the pending lines after the last complete one; if the disk is full, they stay pending."""
        lines = "".join(self.pending).encode()
        try:
            if self.file.tell() != self.end:
                self.file.truncate(self.end)
                self.file.seek(self.end)
            if self.file.write(lines) < len(lines):
                raise OSError("no space left for a whole line")
        except OSError as problem:
            if len(self.pending) == 1:
                self.say(f"{self.metrics} can't be written ({problem}); its lines are kept in memory until it can")
            return
        self.pending, self.end = [], self.end + len(lines)

    def image(self, name: str, image: Tensor, step: int) -> None:
        path = self.images / f"{name.replace('/', '_')}_{step:07d}.png"
        try:
            save_png(image, path)
        except OSError as problem:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            self.say(f"{path} can't be written ({problem}); training goes on")

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.pending:
            self._write()
        self.file.close()


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl without incomplete ones, which a kill leaves."""
    return [row for row in map(_row, path.read_bytes().splitlines(keepends=True)) if row is not None]


def damaged(path: Path) -> int:
    """Count the damaged lines of a metrics.jsonl but the last, which a kill can leave incomplete."""
    return sum(_row(line) is None for line in path.read_bytes().splitlines(keepends=True)[:-1])


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
