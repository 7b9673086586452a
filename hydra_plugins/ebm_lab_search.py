"""Hydra's entry to `hydra/sweeper=optuna`: Hydra looks for its plugins in the namespace package `hydra_plugins`."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class EBMLabOptunaSweeper(Sweeper):
    """Search by Optuna; the settings are those of configs/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.search: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from ebm_lab.cli.search import Search

        self.search = Search.checked(self.settings, hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        return self.search.run(arguments)
