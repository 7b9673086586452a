"""The interface of loggers, and the facts about a run that they are given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass
class RunInfo:
    """Facts about a run for its loggers: a unique name, its directory and the config. `say` prints a line for the
    user."""

    name: str
    path: Path
    config: Mapping[str, Any]
    say: Callable[[str], None]


class Logger(Protocol):
    """A destination of numbers and pictures. `step` never decreases.

    A logger that raises is dropped, and the run goes on. A UserError of its constructor means a mistake in its
    settings, and stops the run before it starts.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, name: str, image: Tensor, step: int) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None: ...
