"""Draw a search: its trials in their order, and how much each setting matters to the result, by Optuna's own plots."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study

MEASURABLE = 5
"""Finished trials from which on importances are drawn; fewer say nothing."""


def draw(study: "Study", folder: Path, metric: str) -> list[Path]:
    """Write history.png and, if there are enough trials with different results, importance.png; return the files.

    The importance of a setting is its share of the variance of the result over the searched space, by a random forest
    fitted to the trials (Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance, 2014).
    """
    from optuna import visualization
    from optuna.trial import TrialState

    files = [_saved(visualization.matplotlib.plot_optimization_history, study, folder / "history.png", metric)]
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(finished) >= MEASURABLE and len({t.value for t in finished}) > 1:
        files.append(_saved(visualization.matplotlib.plot_param_importances, study, folder / "importance.png", metric))
    return files


def _saved(plot: Any, study: "Study", file: Path, metric: str) -> Path:
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore")  # Optuna calls these plots experimental
        from matplotlib import pyplot

        figure = plot(study, target_name=metric).figure
        figure.savefig(file, dpi=120, bbox_inches="tight")
        pyplot.close(figure)
    return file
