"""The picture of `ebm-lab diff`: the densities of two runs on one scale, or their samples side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.random import subset
from ebm_lab.evaluation._raw_units import raw_densities
from ebm_lab.runs.load import load_run
from ebm_lab.runs.run_directory import RunDir

if TYPE_CHECKING:
    from ebm_lab.runs.loaded import LoadedRun

CELLS = 150
Law = tuple[Tensor, Tensor]
"""The nodes of a grid, (N, d), and a log density there, (N,)."""


def picture(runs: Mapping[str, RunDir], plugins: Sequence[str] = ()) -> Tensor:
    """Draw the densities of the runs in one or two dimensions, or else show the last samples that each has drawn.

    runs: by the name that their panel has. Raises UserError, with the reason, if there is neither.
    """
    try:
        loaded = {name: load_run(run.path, evaluation={}, plugins=plugins) for name, run in runs.items()}
    except UserError as error:  # a run that can't be loaded may still have pictures
        reason = f" ({error})"
    else:
        reason = ""
        if all(map(_has_density, loaded.values())) and len({r.dataset.event_shape for r in loaded.values()}) == 1:
            return densities(loaded)
    files = {name: _pictures_of_samples(run) for name, run in runs.items()}
    for name, found in files.items():
        if not found:
            way = f"ebm-lab evaluate run={runs[name].path} evaluation=samples"
            raise UserError(f"{name} has no density to draw and no picture of samples, which `{way}` draws{reason}")
    return _images({name: found[-1] for name, found in files.items()})


def _pictures_of_samples(run: RunDir) -> list[Path]:
    """Return what `evaluate` drew, and then what training drew, from the first step to the last."""
    return [*run.path.glob("evaluation/samples.png"), *sorted(run.images.glob("samples_*.png"))]


def _has_density(run: "LoadedRun") -> bool:
    continuous = "continuous" in features_of(run.dataset)
    return continuous and "energy" in features_of(run.energy) and run.dataset.event_shape in ((1,), (2,))


def densities(runs: "Mapping[str, LoadedRun]") -> Tensor:
    """Draw the densities of runs in one or two raw dimensions, and the true one if all have the same data."""
    raw = [r.dataset.transform.inverse(subset(r.dataset.test, 2000)).cpu().double() for r in runs.values()]
    around, laws, truths = torch.cat(raw), {}, []
    for name, run in runs.items():
        x = run.dataset.transform.forward(around).to(run.dataset.mean)
        nodes, log_p, truth, _ = raw_densities(run.energy, run.dataset, x, CELLS)
        laws[name] = nodes.cpu(), log_p.cpu()
        truths.append(truth)
    first, *others = (run.config["dataset"] for run in runs.values())
    if truths[0] is not None and all(other == first for other in others):
        laws["true density"] = next(iter(laws.values()))[0], truths[0].cpu()
    return _line(laws) if around.shape[1] == 1 else _plane(laws)


def _line(laws: Mapping[str, Law]) -> Tensor:
    def draw(fig) -> None:
        axes = fig.subplots()
        for name, (nodes, log_p) in laws.items():
            style = "k:" if name == "true density" else "-"
            axes.plot(nodes[:, 0].numpy(), log_p.exp().numpy(), style, label=name)
        axes.legend(frameon=False)
        axes.set_xlabel("x (raw units)")

    return pictures.figure(draw, 6, 3.5)


def _plane(laws: Mapping[str, Law]) -> Tensor:
    """Draw densities in the plane on the scale of the last one, which is the true one if it is known."""
    top = float([*laws.values()][-1][1].exp().max())

    def draw(fig) -> None:
        for axes, (name, (nodes, log_p)) in zip(fig.subplots(1, len(laws)), laws.items(), strict=True):
            (left, bottom), (right, high) = nodes[0].tolist(), nodes[-1].tolist()
            p = log_p.exp().view(CELLS + 1, CELLS + 1).T.numpy()
            axes.imshow(p, origin="lower", extent=(left, right, bottom, high), cmap="magma", vmin=0, vmax=top)
            axes.set(title=name, aspect="auto")

    return pictures.figure(draw, 3.3 * len(laws), 3.3)


def _images(files: Mapping[str, Path]) -> Tensor:
    """Show pictures side by side, each below its name."""
    from PIL import Image

    images = {name: Image.open(file).convert("RGB") for name, file in files.items()}

    def draw(fig) -> None:
        for axes, (name, image) in zip(fig.subplots(1, len(images)), images.items(), strict=True):
            axes.imshow(image)
            axes.set_title(name)
            axes.axis("off")

    highest = max(image.height / image.width for image in images.values())
    return pictures.figure(draw, 4.5 * len(images), 4.3 * highest + 0.4)
