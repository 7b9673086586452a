"""Keep the old names of moved modules importable: importing one returns the new module, with a warning."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RENAMED = {
    "core.bits": "evaluation._bits_per_dim",
    "core.buffer": "objectives._replay_buffer",
    "core.conditioning": "models.conditioning",
    "core.contrastive": "objectives._contrastive",
    "core.curves": "distributions.curves",
    "core.diagnostics": "statistics.diagnostics",
    "core.distributions": "distributions.elementary",
    "core.flow": "distributions.flow",
    "core.images": "datasets._images",
    "core.ladder": "models.ladder",
    "core.layers": "models.layers",
    "core.levels": "models.levels",
    "core.metropolis": "samplers._metropolis",
    "core.mixtures": "distributions.mixture",
    "core.noise": "distributions.noise",
    "core.perceptron": "models.perceptron",
    "core.quadrature": "distributions.quadrature",
    "core.splits": "datasets._splits",
    "core.stein": "statistics.stein",
    "core.synthetic": "datasets._synthetic",
    "core.tables": "datasets._tables",
    "core.unet": "models.unet",
    "core.view": "core.eval_view",
    "experiment": "runs.assemble",
    "load": "runs.load",
    "run": "runs.train",
    "training.counters": "training.costs",
    "training.processes": "training.distributed",
    "training.rundir": "runs.run_directory",
}
"""Old module names to new ones, both within ebm_lab, for plugins and scripts written before the move."""


class _Alias(Loader):
    """Load the new module in place of the old one."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"ebm_lab.{RENAMED[spec.name.removeprefix('ebm_lab.')]}"
        warnings.warn(f"{spec.name} is now {new}; import it from there", FutureWarning, stacklevel=2)
        module = import_module(new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has set the old name's spec


class Finder(MetaPathFinder):
    """Find modules by their old names; Python asks this finder last."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, _Alias()) if package == "ebm_lab" and name in RENAMED else None


def install() -> None:
    """Make the old names importable."""
    sys.meta_path.append(Finder())
