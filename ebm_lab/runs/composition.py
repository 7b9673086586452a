"""Compose the energies of several runs in one space, that of the first run; refuse what has no meaning, in one line.

Products, quotients and mixtures are those of the laws of the raw data: each energy comes with the log-determinant of
its own map (core/frames.py), so that runs trained in other units compose exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.composed import MixtureOf, Op, Product
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.frames import carried, equal, in_frame, linear, tilted
from ebm_lab.core.interfaces import Sampleable
from ebm_lab.core.random import stream, subset
from ebm_lab.distributions.elementary import IsotropicGaussian, UniformBox
from ebm_lab.distributions.start import noise_like
from ebm_lab.models.level_product import LEVELS_LINE, LevelPart, LevelProduct
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.runs.data_record import KeptData
from ebm_lab.runs.integral import check_integral
from ebm_lab.runs.loaded import LoadedRun, LogZ


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The composed model, in the space of the first run.

    model: an energy, or a LevelProduct where all runs have many noise levels; parts: the energy of each run in that
    space, none for score networks; weights: as used, a mixture's adding up to 1; log_z: of each run in its own space,
    where it was needed; points: where the runs' data are, (n, *shape); start: from where chains start, noise of the
    place and size of all data, and for a mixture the samples of its runs.
    """

    op: Op
    model: nn.Module
    parts: list[nn.Module]
    weights: list[float]
    log_z: list[LogZ]
    points: Tensor
    start: Sampleable
    scale: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OfRuns:
    """The runs' own samples, in the space of the first, in shares of `weights`: chains hardly cross from one run's
    modes to those of another, so that from noise the shares would be those of the noise."""

    runs: Sequence[LoadedRun]
    weights: Sequence[float]

    def sample(self, n: int, generator: Generator) -> Tensor:
        mean, frame = self.runs[0].dataset.mean, self.runs[0].dataset.transform
        which = torch.multinomial(torch.tensor(self.weights, device=generator.device), n, True, generator=generator)
        x = mean.new_empty(n, *mean.shape)
        for i, run in enumerate(self.runs):
            here = which == i
            if bool(here.any()):
                own = run.sample(int(here.sum()), generator, raw=False)
                home = run.dataset.transform
                x[here] = (own if equal(home, frame) else carried(own, home, frame)).to(x)
        return x


def compose_runs(runs: Sequence[LoadedRun], op: Op, weights: Sequence[float] | None = None) -> Composition:
    """Compose the energies of runs: sum_i w_i E_i for a product or a negation, -log sum_i w_i p_i for a mixture.

    weights: one for each run; by default all 1 for a product and equal for a mixture. Raises UserError in one line for
    weights that do not suit `op`, for runs whose data do not live in one space, for score networks where energies are
    needed, and for a law without an integral.
    """
    w = check_weights(op, weights, len(runs))
    check_spaces(runs)
    scored = [run for run in runs if "energy" not in features_of(run.energy)]
    if scored and op != "product":
        why = "needs energies and their log Z" if op == "mixture" else "needs energies, to see that the law has a Z"
        raise UserError(f"op={op}: {why}, and run={scored[0].path} is a score network; allowed for it: op=product")
    levels = ["levels" in features_of(run.energy) for run in runs]
    if scored and not all(levels):
        other = runs[levels.index(False)]
        raise UserError(
            f"runs: run={scored[0].path} is a score network of many noise levels, and run={other.path} an energy of "
            f"one: allowed: all of many levels, or all energies"
        )
    points, centres = _places(runs)
    mean, scale = points.mean(0), float(points.flatten(1).double().var(0).mean().sqrt())
    frame, like = runs[0].dataset.transform, runs[0].dataset.mean
    parts = [] if scored else [in_frame(run.energy, run.dataset.transform, frame, like) for run in runs]
    log_z, notes = [], []
    if op == "mixture":
        log_z = [run.log_z for run in runs]
        model: nn.Module = MixtureOf(parts, w, [z.value for z in log_z])
        w = model.weights
        if any(levels):
            notes.append("models of many noise levels take part at their lowest level")
    elif all(levels):
        model = _level_product(runs, w, mean, scale)
        notes.append(LEVELS_LINE)
    else:
        model = tilted(Product(parts, w), frame, 1 - sum(w), like)
        if any(levels):
            notes.append("models of many noise levels take part at their lowest level")
    if parts and op != "mixture":
        notes += check_integral(parts, w, runs[0], centres, scale)
    start: Sampleable = IsotropicGaussian(mean, scale)
    if op == "mixture" and all(run.sampler is not None for run in runs):
        start = OfRuns(runs, w)
    elif (bounds := runs[0].dataset.bounds) is not None:
        low, high = (torch.full_like(mean, b) for b in bounds)
        start = UniformBox(low, high)
    return Composition(
        op=op,
        model=model.eval(),
        parts=parts,
        weights=w,
        log_z=log_z,
        points=points,
        start=start,
        scale=scale,
        notes=notes,
    )


def check_weights(op: Op, weights: Sequence[float] | None, n: int) -> list[float]:
    """Return the weights of n runs; raise UserError where they do not suit `op`."""
    if n < 2:
        raise UserError(f"runs: {n} given; a composition takes two or more, as runs=[a,b]")
    if weights is None:
        if op == "negation":
            raise UserError("weights=null: op=negation needs a weight for each run, as weights=[1,-0.3]")
        return [1.0] * n
    w = [float(value) for value in weights]
    if len(w) != n:
        raise UserError(f"weights={w}: {len(w)} weights for {n} runs; give one for each")
    if op == "negation":
        if not (min(w) < 0 < max(w)):
            raise UserError(f"weights={w}: op=negation takes at least one positive and one negative weight")
    elif min(w) <= 0:
        more = "; op=negation takes negative ones" if op == "product" and min(w) < 0 else ""
        raise UserError(f"weights={w}: op={op} takes positive weights{more}")
    return w


def check_spaces(runs: Sequence[LoadedRun]) -> None:
    """Raise UserError unless the data of all runs live in one raw space, for images with one scaling."""
    first = runs[0]
    for run in runs[1:]:
        a, b = first.dataset, run.dataset
        both = f"run={first.path} and run={run.path}"
        if a.event_shape != b.event_shape:
            raise UserError(f"{both}: can't be composed: their samples have shapes {a.event_shape} and {b.event_shape}")
        if (a.bounds is None) != (b.bounds is None):
            raise UserError(f"{both}: can't be composed, for the data of one are images and those of the other points")
        if a.bounds is not None and not (a.bounds == b.bounds and equal(a.transform, b.transform)):
            raise UserError(
                f"{both}: can't be composed, for their pixels are scaled differently, to {a.bounds} by "
                f"{_map(first)} and to {b.bounds} by {_map(run)}"
            )


def _map(run: LoadedRun) -> str:
    kept = {k: v for k, v in run.config["dataset"].items() if k in ("scaling", "dequantize")}
    given = {"preprocess": run.config.get("preprocess", "none"), **kept}
    return " ".join(f"{k}={v}" for k, v in given.items())


def _places(runs: Sequence[LoadedRun]) -> tuple[Tensor, Tensor]:
    """Return points of all runs' data, and their means by run, in the first run's space; points of noise of that place
    and size stand in for data that are gone."""
    frame, found = runs[0].dataset.transform, []
    for run in runs:
        data = run.dataset
        gone = isinstance(data, KeptData)
        own = noise_like(data).sample(2000, stream(0, "compose")) if gone else subset(data.train, 2000)
        moved = own if equal(data.transform, frame) else carried(own, data.transform, frame)
        found.append(moved.to(runs[0].dataset.mean))
        if not bool(found[-1].isfinite().all()):
            raise UserError(
                f"run={runs[0].path} and run={run.path}: can't be composed, for data of the second lie where the first "
                f"one's map ({_map(runs[0])}) is not defined"
            )
    return torch.cat(found), torch.stack([x.mean(0) for x in found])


def _level_product(runs: Sequence[LoadedRun], w: list[float], mean: Tensor, scale: float) -> LevelProduct:
    """Return the product level by level; a level of x is one of z where the maps differ by a shift and one scale."""
    frame, like, parts = runs[0].dataset.transform, runs[0].dataset.mean, []
    zero = torch.zeros(1, *like.shape)
    for run in runs:
        home = run.dataset.transform
        if equal(home, frame):
            parts.append(LevelPart(torch.zeros_like(like), 1.0))
            continue
        shift, factor = linear(home, frame, like) if home.is_linear and frame.is_linear else (like, like)
        if torch.is_tensor(factor):
            raise UserError(
                f"run={runs[0].path} and run={run.path}: noise levels compose where coordinates differ by a shift and "
                f"one scale, and these by more ({_map(runs[0])}, {_map(run)}): train both with preprocess=none"
            )
        jump = float(frame.log_det_at(zero)[0]) - float(home.log_det_at(zero)[0])
        parts.append(LevelPart(shift, float(factor), jump))
    return LevelProduct([cast(NoiseLevels, run.energy) for run in runs], w, parts, mean, scale)
