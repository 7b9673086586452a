"""The energy of a run that is made of other runs."""

from typing import cast

from ebm_lab.core.composed import Op
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.frames import in_frame
from ebm_lab.core.functional import KnowsDerivatives
from ebm_lab.core.interfaces import Dataset
from ebm_lab.runs.composition import compose_runs
from ebm_lab.runs.load import load_run


def composed_energy(
    dataset: Dataset, runs: list[str], op: Op, weights: list[float] | None
) -> tuple[KnowsDerivatives, list[str]]:
    """Return the energy of these runs in the coordinates of `dataset`, and notes for the user.

    Raises UserError for runs that do not compose, or whose data are of another kind than `dataset`.
    """
    device = str(dataset.mean.device)
    loaded = [load_run(path, device=device, evaluation={}, data="kept") for path in runs]
    first = loaded[0].dataset
    for run in loaded:
        if "energy" not in features_of(run.energy) or "levels" in features_of(run.energy):
            raise UserError(
                f"energy.runs: {run.path} is a model of many noise levels: compose it by scripts/compose.py"
            )
    if (first.event_shape, first.bounds, first.space) != (dataset.event_shape, dataset.bounds, dataset.space):
        raise UserError(
            f"energy.runs: the samples of {loaded[0].path} have shape {first.event_shape} in {first.bounds}, and those "
            f"of the data {dataset.event_shape} in {dataset.bounds}"
        )
    made = compose_runs(loaded, op, weights)
    model = in_frame(made.model, first.transform, dataset.transform, dataset.mean)
    return cast(KnowsDerivatives, model), made.notes
