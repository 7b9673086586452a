"""The run directory's own record: `metrics.jsonl` and `images/*.png`, whatever other logger a run has."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ebm_lab.core.pictures import save_png


class Files:
    """Begins after `step`: lines of later steps, left by a process that was killed, and a line cut in its middle are
    dropped, for a resumed run writes them again. Lines with the key `event` are rollbacks; without them, steps rise."""

    def __init__(self, metrics: Path, images: Path, step: int, events: Sequence[Mapping[str, Any]] = ()) -> None:
        self.metrics, self.images = metrics, images
        self.file = open(metrics, "a")  # noqa: SIM115 (closed in close)
        self.rewind(step, events)

    def rewind(self, step: int, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep the metrics up to `step` and put each of `events` behind those of its own step; replaced whole."""
        self.file.close()
        rows = [row for row in _rows(self.metrics) if row["step"] <= step and "event" not in row]
        rows = sorted([*rows, *events], key=lambda row: (row["step"], "event" in row))
        temporary = self.metrics.with_name(self.metrics.name + ".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self.metrics)
        self.file = open(self.metrics, "a", buffering=1)  # noqa: SIM115 (closed in close)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")

    def image(self, name: str, image: Tensor, step: int) -> None:
        save_png(image, self.images / f"{name.replace('/', '_')}_{step:07d}.png")

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.close()


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
