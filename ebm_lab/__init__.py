"""ebm_lab: train energy-based models, p(x) = exp(-E(x)) / Z, from one config.

result = ebm_lab.train(["objective=dsm", "dataset=two_moons"])
run = ebm_lab.load_run(result.path)
run = ebm_lab.fit(x, objective="nce")  # for a tensor, an array or a data frame
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ebm_lab.renamed import install

if TYPE_CHECKING:
    from ebm_lab.cli.api import train
    from ebm_lab.cli.estimator import EBMDensity
    from ebm_lab.cli.fit import fit
    from ebm_lab.core.errors import UserError
    from ebm_lab.core.registry import register
    from ebm_lab.runs.load import load_run

__version__ = "0.1.0"
__all__ = ["EBMDensity", "UserError", "fit", "load_run", "register", "train"]
_HOMES = {
    "EBMDensity": "ebm_lab.cli.estimator",
    "UserError": "ebm_lab.core.errors",
    "fit": "ebm_lab.cli.fit",
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


def __dir__() -> list[str]:
    """List what the package offers, also before it is imported."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
