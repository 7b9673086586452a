"""A logger whose failures do not end a run, whatever a service or a plugin raises."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Logger


class Guarded:
    """Forward calls to the logger that `make` returns, until it raises.

    After that `say` is called with the reason, and the logger is only closed. A UserError of `make` is raised, since it
    is a mistake in the settings and not a failure of the logger.
    """

    def __init__(self, name: str, make: Callable[[], Logger], say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.logger: Logger | None = None
        self.broken = False

        def build() -> None:
            self.logger = make()

        self._try(build)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except UserError as error:
            if self.logger is None:
                raise
            self._give_up(error)
        except (Exception, SystemExit) as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if not self.broken:
            self.broken = True
            text = (str(error).splitlines() or [""])[0][:120]
            self.say(f"logger={self.name}: {type(error).__name__}: {text}; the run goes on without it")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        logger = self.logger
        if logger is not None and not self.broken:
            self._try(lambda: logger.scalars(dict(values), step))

    def image(self, name: str, image: Tensor, step: int) -> None:
        logger = self.logger
        if logger is not None and not self.broken:
            self._try(lambda: logger.image(name, image, step))

    def close(self, summary: Mapping[str, Any]) -> None:
        logger = self.logger
        if logger is not None:
            self._try(lambda: logger.close(dict(summary)))
