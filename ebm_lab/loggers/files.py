"""The run directory's own record: `metrics.jsonl` and `images/*.png`, whatever other logger a run has."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ebm_lab.core.pictures import save_png


class Files:
    """Begins after `step`: lines of later steps, left by a process that was killed, and a line cut in its middle are
    dropped, for a resumed run writes them again."""

    def __init__(self, metrics: Path, images: Path, step: int) -> None:
        self.images = images
        kept = [line for line in _lines(metrics) if json.loads(line)["step"] <= step]
        metrics.write_text("".join(kept))
        self.file = open(metrics, "a", buffering=1)  # noqa: SIM115 (closed in close)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")

    def image(self, name: str, image: Tensor, step: int) -> None:
        save_png(image, self.images / f"{name.replace('/', '_')}_{step:07d}.png")

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.close()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
