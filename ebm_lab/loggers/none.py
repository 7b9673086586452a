"""No logger beside the run directory's own files."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ebm_lab.core.registry import register


@register("logger", "none")
class NoLogger:
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Does nothing."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """Does nothing."""
