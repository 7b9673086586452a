"""The interface of loggers, the facts about a run that they are given, and their settings in a config."""

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


def loggers_of(values: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Return the settings of each logger, by name, from a config's `logger`: those of one logger, or of several by
    name."""
    if not values:
        return {}
    return {str(values["name"]): values} if isinstance(values.get("name"), str) else {**values}  # type: ignore[return-value]
