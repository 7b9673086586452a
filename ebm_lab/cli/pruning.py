"""Stop a run of a search early, if it does worse than the search's other runs did at the same step.

Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, 2019; Li et al., Hyperband, 2018.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ebm_lab.core.logger import Logger
from ebm_lab.runs.train import PRUNED
from ebm_lab.training.trainer import Trainer

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner

Name = Literal["none", "median", "hyperband"]


def pruner_of(name: Name, startup: int) -> "BasePruner":
    """Build a pruner: none, median (worse than the median of at least `startup` trials) or hyperband."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup)
    return pruners.HyperbandPruner() if name == "hyperband" else pruners.NopPruner()


class Pruning:
    """A logger that tells the run's trial each value of the monitored metric, and stops the run if the pruner says so.

    Only the metric that chooses the best checkpoint is told.
    """

    def __init__(self, trainer: Trainer, trial: "Trial") -> None:
        self.trainer, self.trial = trainer, trial
        self.told: set[int] = set()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        value = values.get(f"val/{self.trainer.state.costs.best_by}")
        if value is None or step in self.told:  # a run that was rolled back comes to a step twice
            return
        self.told.add(step)
        self.trial.report(value, step)
        if self.trial.should_prune():
            self.trainer.stop = PRUNED

    def image(self, name: str, image: Tensor, step: int) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None: ...


def watch(folder: Path, number: int, name: str, startup: int) -> Callable[[Trainer], Sequence[Logger]]:
    """Return what makes the further loggers of trial `number`: one if the sweep in `folder` prunes, else none."""
    if name not in ("median", "hyperband") or not (folder / "study.db").is_file():
        return lambda trainer: ()
    import optuna

    study = optuna.load_study(
        study_name="search", storage=f"sqlite:///{folder.absolute() / 'study.db'}", pruner=pruner_of(name, startup)
    )
    (trial,) = (t for t in study.get_trials(deepcopy=False) if t.number == number)
    return lambda trainer: (Pruning(trainer, optuna.Trial(study, trial._trial_id)),)
