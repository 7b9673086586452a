"""Draw the model's density in one or two dimensions, beside the data and the samples.

The axes have the units of the raw data; the titles say so if the model sees other units.
"""

from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.evaluation._raw_units import has_raw_units, raw_densities, raw_points


@register("evaluation", "density")
class Density(Evaluation):
    """Draw the model's density in one or two dimensions. `cells`: grid cells per side of the picture."""

    silent = True

    needs = (
        Need("dataset", "continuous", why="discrete data have no density to draw; likelihood sums over their points"),
        Need("energy", "energy", why="a score network has no energy to draw a density from"),
    )

    def __init__(self, *, cells: PositiveInt) -> None:
        self.cells = cells

    def applies(self, view: EvalView) -> str | None:
        shape = view.dataset.event_shape
        return (
            None if len(shape) == 1 and shape[0] <= 2 else f"a density can be drawn in 1 and 2 dimensions, not {shape}"
        )

    @torch.no_grad()
    def __call__(self, view: EvalView) -> Report:
        few = subset(view.held_out, 2000)
        nodes, log_p, truth, data = raw_densities(view.energy, view.dataset, few, self.cells)
        samples = raw_points(view.samples, view.dataset) if view.sampler is not None else None
        origin = None if view.origin is None or samples is None else raw_points(view.trajectory[0][1], view.dataset)
        draw = _line if view.dataset.event_shape[0] == 1 else _plane
        units = " (raw units)" if has_raw_units(view.dataset) else ""
        truth = None if truth is None else truth.cpu()
        picture = draw(Drawn(nodes, log_p.cpu(), truth, data, samples, units, origin))
        return Report(images={"density": picture})


class Drawn(NamedTuple):
    """nodes (N, d) of a grid; the log densities of the model and of the truth there, (N,); points of the data and of
    the samples, (n, d); what is said of the units; the points at which the samples' chains began, if the method says
    where, such as a generator's own samples."""

    nodes: Tensor
    log_p: Tensor
    truth: Tensor | None
    data: Tensor
    samples: Tensor | None
    units: str
    origin: Tensor | None = None


def _line(d: Drawn) -> Tensor:
    def draw(fig) -> None:
        axes = fig.subplots()
        axes.hist(d.data[:, 0].cpu().numpy(), 80, density=True, color="0.8", label="held-out data")
        if d.samples is not None:
            axes.hist(d.samples[:, 0].cpu().numpy(), 80, density=True, histtype="step", color="C1", label="samples")
        axes.plot(d.nodes[:, 0].cpu().numpy(), d.log_p.exp().numpy(), color="C0", label="model density")
        if d.truth is not None:
            axes.plot(d.nodes[:, 0].cpu().numpy(), d.truth.exp().numpy(), "k:", label="true density")
        axes.legend(frameon=False)
        axes.set_xlabel(f"x{d.units}")

    return pictures.figure(draw, 6, 3.5)


def _plane(d: Drawn) -> Tensor:
    side = round(len(d.nodes) ** 0.5)
    low, high = d.nodes[0].tolist(), d.nodes[-1].tolist()
    extent = (low[0], high[0], low[1], high[1])
    maps = [("model density", d.log_p)] + ([("true density", d.truth)] if d.truth is not None else [])
    clouds = [("held-out data" + d.units, d.data)]
    clouds += [("where chains begin", d.origin)] if d.origin is not None else []
    began = "noise" if d.origin is None else "there"
    clouds += [(f"samples from {began}", d.samples)] if d.samples is not None else []
    top = float(maps[-1][1].exp().max())

    ratio = (high[1] - low[1]) / (high[0] - low[0])
    aspect = min(max(ratio, 0.2), 5.0)  # no picture a thousand times as high as wide
    shape = "equal" if aspect == ratio else "auto"

    def draw(fig) -> None:
        panels = fig.subplots(1, len(maps) + len(clouds), squeeze=False)[0]
        for axes, (title, values) in zip(panels, maps, strict=False):
            picture = values.exp().view(side, side).T.numpy()
            axes.imshow(picture, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=top, aspect=shape)
            axes.set_title(title)
        for axes, (title, points) in zip(panels[len(maps) :], clouds, strict=True):
            axes.plot(*points[:2000].cpu().T.numpy(), ".", ms=1.5, alpha=0.6, color="C0")
            axes.set(xlim=extent[:2], ylim=extent[2:], aspect=shape, title=title)

    return pictures.figure(draw, 3.1 * (len(maps) + len(clouds)), 2.8 * aspect + 0.7)
