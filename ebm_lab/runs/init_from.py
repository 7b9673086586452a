"""Begin a run with the averaged weights of another."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.maps import Composed
from ebm_lab.core.random import stream
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.runs.known_data import record_in
from ebm_lab.runs.load import load_run
from ebm_lab.runs.parts import build_dataset
from ebm_lab.runs.run_directory import RunDir
from ebm_lab.runs.saver import of_run
from ebm_lab.runs.settings import import_plugins, pick_device, run_settings
from ebm_lab.training.checkpoint import scales, set_scales
from ebm_lab.training.state import State

ENDS = ("sigma_min", "sigma_max")


def data_like(config: Mapping[str, Any]) -> Dataset | None:
    """Build a new run's data in the coordinates of the run whose weights it takes; None where both have the data set's
    own, or it takes no weights. Raises UserError where it asks for others."""
    settings = run_settings(config)
    if not settings.init_from:
        return None
    path, mine = settings.init_from, settings.preprocess
    run = RunDir.open(path, "init_from")
    theirs, record = run.read_config()["preprocess"], record_in(of_run(run, run.last), run.last)
    known = Composed(()) if record is None else record.fitted
    if not known.parts and mine == "none":
        return None
    import_plugins(settings.plugins)
    dataset = build_dataset(config, settings, pick_device(settings.device), known)
    if (dataset.map is None) == bool(known.parts):
        raise UserError(f"preprocess={mine}: the weights of init_from={path} are of preprocess={theirs}; give that")
    return dataset


def take_weights(state: State, path: str) -> nn.Module:
    """Copy the averaged weights of another run's energy, with the mean and scale of its data, into this run's energy,
    and return the other energy.

    If both are of one kind the result is exactly the energy that the other run learnt. Raises UserError if the shapes
    or the noise levels differ.
    """
    run = RunDir.open(path, "init_from")
    other_energy = load_run(run.path, evaluation={}, data="kept").energy
    theirs = other_energy.state_dict()
    energy = state.objective.energy
    mine = energy.state_dict()
    shapes = [{k: tuple(v.shape) for k, v in s.items()} for s in (mine, theirs)]
    if shapes[0] != shapes[1]:
        odd = next(k for k in sorted({*mine, *theirs}) if shapes[0].get(k) != shapes[1].get(k))
        raise UserError(
            f"init_from={path}: its energy does not fit: "
            f"'{odd}' is {shapes[1].get(odd)} there and {shapes[0].get(odd)} here"
        )
    _same_ladder(energy, other_energy, path)
    energy.load_state_dict(theirs)
    set_scales(energy, scales(other_energy))  # the state_dict holds the mean, but not the scale
    for average, parameter in zip(state.ema.average, state.ema.parameters, strict=True):
        average.copy_(parameter.detach())
    return other_energy


def _same_ladder(mine: nn.Module, theirs: nn.Module, path: str) -> None:
    """Raise UserError if two models of many noise levels count the height of a level from different ends."""
    if not all("levels" in features_of(model) for model in (mine, theirs)):
        return
    here, there = (cast(NoiseLevels, model).ladder for model in (mine, theirs))
    if not all(math.isclose(getattr(here, end), getattr(there, end), rel_tol=1e-6) for end in ENDS):
        asked = " ".join(f"energy.{end}={getattr(there, end)!r}" for end in ENDS)
        raise UserError(
            f"init_from={path}: its noise levels lie between {there.sigma_min:.4g} and {there.sigma_max:.4g}, and here "
            f"between {here.sigma_min:.4g} and {here.sigma_max:.4g}; its weights know them by these ends: give {asked}"
        )


def start_difference(mine: nn.Module, theirs: nn.Module, x: Tensor) -> list[str]:
    """Return a line with the difference of the scores of two models of many noise levels,
    sqrt(E |s_mine - s_theirs|^2 / E |s_theirs|^2), at both ends and in the middle of the ladder, for data x (B, *shape)
    with that noise; no line for models of one level."""
    if not all("levels" in features_of(model) for model in (mine, theirs)):
        return []
    ladder, parts = cast(NoiseLevels, mine).ladder, []
    theirs.to(x.device)
    for u in (0.0, 0.5, 1.0):
        sigma = ladder.sigma(u)
        noise = torch.empty_like(x).normal_(generator=stream(0, "start_difference", 0, x.device))
        one, other = (cast(NoiseLevels, model).score(x + sigma * noise, sigma) for model in (mine, theirs))
        parts.append(f"{float((one - other).norm() / other.norm()):.3g} at sigma={sigma:.3g}")
    return [f"init_from: the scores begin with a relative difference from those of the other run of {', '.join(parts)}"]
