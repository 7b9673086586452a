"""Check the data, the precision and the division of a batch before training; a fault is reported in one line."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Dataset, Objective, Sampler
from ebm_lab.core.settings import wiring_of
from ebm_lab.core.transforms import ROUNDING
from ebm_lab.models.levels import data_score

SCALES = (1e-12, 1e12)
"""Range of data scales whose squares and inverse squares float32 represents with room to spare."""


def check_data(dataset: Dataset, config: Mapping[str, Any], scaled: bool = True) -> None:
    """Reject data with nan or inf, real numbers whose scale float32 cannot work with, and discrete data of other values
    than their space has. A bit that never changes is no fault.

    scaled: whether the data have the scale in which the model sees them.
    """
    who = f"dataset={config['dataset']['name']}"
    for split in ("train", "val", "test"):
        bad = ~getattr(dataset, split).isfinite()
        if bool(bad.any()):
            raise UserError(f"{who}: {int(bad.sum())} value(s) of '{split}' are nan or inf")
    if len(dataset.train) < 2:
        raise UserError(f"{who}: one training point has no spread; at least two are needed")
    if dataset.scale == 0 or bool((dataset.train == dataset.train[0]).all()):
        raise UserError(f"{who}: all training points are equal{_way_out(dataset, config)}")
    if dataset.space != "continuous":
        _check_values(dataset, who)
        return
    if scaled and not SCALES[0] <= dataset.scale <= SCALES[1]:
        raise UserError(
            f"{who}: the data's scale is {dataset.scale:.1e}, and float32 holds no squares of that"
            f"{_way_out(dataset, config)}"
        )
    if dataset.bounds is None:
        _check_resolution(dataset, config, who)


def _check_values(dataset: Dataset, who: str) -> None:
    """Reject bits that are not 0 or 1, and categories that are not one-hot along the first axis."""
    for split in ("train", "val", "test"):
        x: Tensor = getattr(dataset, split)
        bad = x[(x != 0) & (x != 1)]
        if len(bad):
            raise UserError(f"{who}: '{split}' holds {float(bad[0]):g}, and {dataset.space} data are zeros and ones")
        if dataset.space == "categorical" and not bool((x.sum(1) == 1).all()):
            raise UserError(f"{who}: '{split}' is not one-hot along its first axis, as categorical data are")


def _check_resolution(dataset: Dataset, config: Mapping[str, Any], who: str) -> None:
    """Reject points so far from zero that float rounding there is coarse beside the data's standard deviation."""
    train = dataset.train.flatten(1)
    std = train.double().std(0)
    step = train.abs().amax(0).double() * (torch.finfo(train.dtype).eps / 2)
    bad = step > ROUNDING * torch.where(std > 0, std, dataset.scale)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[:5, 0]]
        raise UserError(
            f"{who}: coordinate(s) {where} lie so far from zero that {str(train.dtype).split('.')[-1]} rounds their "
            f"differences away{_way_out(dataset, config)}"
        )


def _way_out(dataset: Dataset, config: Mapping[str, Any]) -> str:
    """Return a remedy as the end of an error line."""
    if config["dataset"].get("scaling") == "none" and dataset.space == "continuous":
        return "; dataset.scaling=none: choose dataset.scaling=standardize"
    if dataset.bounds is not None or dataset.space != "continuous":
        return ""
    return "; give data of mean about 0 and scale about 1" + (
        ", or choose preprocess=standardize" if config.get("preprocess", "none") == "none" else ""
    )


def probe(energy: nn.Module, dataset: Dataset, config: Mapping[str, Any]) -> None:
    """Send two samples through the energy, so that a shape mismatch is reported early and in one line."""
    try:
        with torch.no_grad():
            if "energy" in features_of(energy):
                evaluate(energy, dataset.train[:2])
            else:
                data_score(energy, dataset.train[:2])
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"energy={config['energy']['name']}: can't take samples of shape {dataset.event_shape} from "
            f"dataset={config['dataset']['name']} ({str(error).splitlines()[0][:120]})"
        ) from None


def check_parts(objective: Objective, batch_size: int, accumulate: int, world: int) -> None:
    """Reject a batch that can't be cut into equal parts for the processes and passes without changing the loss."""
    parts = accumulate * world
    if batch_size % parts:
        shared = f"the {world} processes" + (f" times accumulate={accumulate}" if accumulate > 1 else "")
        raise UserError(
            f"batch_size={batch_size}: must be a multiple of {shared if world > 1 else f'accumulate={accumulate}'}"
        )
    for name in objective.rows:
        rows = len(objective.get_buffer(name))
        if rows % world:
            raise UserError(f"'{name}' of the objective has {rows} chains: give a multiple of the {world} processes")
    if parts > 1 and objective.not_separable:
        key = f"accumulate={accumulate}" if accumulate > 1 else f"{world} processes"
        raise UserError(f"{key}: the batch can't be cut into parts, for {objective.not_separable}; train it whole")


def check_precision(objective: Objective, sampler: Sampler | None, config: Mapping[str, Any]) -> None:
    """Reject bfloat16 and TF32 if energies are compared: 8 and 11 significant bits would lose their differences.

    TF32 is rejected on a CPU too, where it has no effect, so that a config that runs there also runs on CUDA.
    """
    precision = config["precision"]
    if precision == "float32":
        return
    if objective.needs_float32:
        raise UserError(
            f"precision={precision}: objective '{config['objective']['name']}' {objective.needs_float32}, and "
            f"{precision} rounds the differences away; choose precision=float32"
        )
    trains = sampler is not None and "sampler" in wiring_of(type(objective))
    if trains and "reparameterised" not in features_of(sampler):
        raise UserError(
            f"precision={precision}: sampler '{config['sampler']['name']}' accepts or rejects by energy differences, "
            f"which {precision} rounds away; choose precision=float32 or sampler=langevin"
        )


def check_card(device: str, world: int) -> None:
    """Reject one card for all processes of a run."""
    if world > 1 and device.startswith("cuda:"):
        raise UserError(
            f"device={device}: all {world} processes would share that card; give device=cuda, and each gets its own"
        )


def check_layout(energy: nn.Module, name: str) -> None:
    """Reject channels_last for an energy without convolutions."""
    if not any(p.ndim == 4 for p in energy.parameters()):
        raise UserError(f"channels_last=true: it speeds up convolutions only, and energy '{name}' has none")
