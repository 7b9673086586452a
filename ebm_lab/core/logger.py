"""What a logger is, and what it may know of its run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass
class RunInfo:
    """What a logger may know of its run: a unique name, its directory, the config, and `say`, which prints a line to
    the user."""

    name: str
    path: Path
    config: Mapping[str, Any]
    say: Callable[[str], None]


class Logger(Protocol):
    """Where numbers and pictures go. `step` never decreases. What a logger raises ends no run: it is left out from then
    on. A UserError of its constructor is a mistake in its settings, which ends the run before it begins."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, name: str, image: Tensor, step: int) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None: ...
