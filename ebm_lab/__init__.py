"""ebm_lab: train energy-based models, p(x) = exp(-E(x)) / Z, from one config.

result = ebm_lab.train(["objective=dsm", "dataset=two_moons"])
run = ebm_lab.load_run(result.path)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebm_lab.renamed import install

if TYPE_CHECKING:
    from ebm_lab.cli.api import train
    from ebm_lab.core.errors import UserError
    from ebm_lab.core.registry import register
    from ebm_lab.runs.load import load_run

__all__ = ["UserError", "load_run", "register", "train"]
_HOMES = {
    "UserError": "ebm_lab.core.errors",
    "load_run": "ebm_lab.runs.load",
    "register": "ebm_lab.core.registry",
    "train": "ebm_lab.cli.api",
}

install()


def __getattr__(name: str) -> Any:
    """Import on first use, so that importing the package is fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ebm_lab' has no attribute '{name}'")
