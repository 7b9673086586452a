"""No logger besides the run directory's own files."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ebm_lab.core.registry import register


@register("logger", "none")
class NoLogger:
    """Log nothing; the run directory's own files are still written."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Do nothing."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""
