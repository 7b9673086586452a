"""Draw the model's density in one or two dimensions, beside the data and the samples."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.quadrature import framed_log_density


@register("evaluation", "density")
class Density(Evaluation):
    """Draw the model's density in one or two dimensions. `cells`: grid cells per side of the picture."""

    silent = True

    needs = (Need("energy", "energy", why="a score network has no energy to draw a density from"),)

    def __init__(self, *, cells: PositiveInt) -> None:
        self.cells = cells

    def applies(self, view: EvalView) -> str | None:
        shape = view.dataset.event_shape
        return (
            None if len(shape) == 1 and shape[0] <= 2 else f"a density can be drawn in 1 and 2 dimensions, not {shape}"
        )

    @torch.no_grad()
    def __call__(self, view: EvalView) -> Report:
        data = subset(view.held_out, 2000)
        nodes, log_p = framed_log_density(view.energy, data, self.cells)
        draw = _line if view.dataset.event_shape[0] == 1 else _plane
        return Report(images={"density": draw(view, nodes, log_p.cpu(), data)})


def _line(view: EvalView, nodes: Tensor, log_p: Tensor, data: Tensor) -> Tensor:
    def draw(fig) -> None:
        axes = fig.subplots()
        axes.hist(data[:, 0].cpu().numpy(), 80, density=True, color="0.8", label="held-out data")
        if view.sampler is not None:
            axes.hist(view.samples[:, 0].cpu().numpy(), 80, density=True, histtype="step", color="C1", label="samples")
        axes.plot(nodes[:, 0].cpu().numpy(), log_p.exp().numpy(), color="C0", label="model density")
        truth = view.dataset.log_prob(nodes)
        if truth is not None:
            axes.plot(nodes[:, 0].cpu().numpy(), truth.cpu().exp().numpy(), "k:", label="true density")
        axes.legend(frameon=False)
        axes.set_xlabel("x")

    return pictures.figure(draw, 6, 3.5)


def _plane(view: EvalView, nodes: Tensor, log_p: Tensor, data: Tensor) -> Tensor:
    side = round(len(nodes) ** 0.5)
    low, high = nodes[0].tolist(), nodes[-1].tolist()
    extent = (low[0], high[0], low[1], high[1])
    truth = view.dataset.log_prob(nodes)
    maps = [("model density", log_p)] + ([("true density", truth.cpu())] if truth is not None else [])
    clouds = [("held-out data", data)] + ([("samples from noise", view.samples)] if view.sampler is not None else [])
    top = float(maps[-1][1].exp().max())

    def draw(fig) -> None:
        panels = fig.subplots(1, len(maps) + len(clouds), squeeze=False)[0]
        for axes, (title, values) in zip(panels, maps, strict=False):
            picture = values.exp().view(side, side).T.numpy()
            axes.imshow(picture, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=top)
            axes.set_title(title)
        for axes, (title, points) in zip(panels[len(maps) :], clouds, strict=True):
            axes.plot(*points[:2000].cpu().T.numpy(), ".", ms=1.5, alpha=0.6, color="C0")
            axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", title=title)

    aspect = min(max((high[1] - low[1]) / (high[0] - low[0]), 0.2), 5.0)  # limits the picture's shape for narrow data
    return pictures.figure(draw, 3.1 * (len(maps) + len(clouds)), 2.8 * aspect + 0.7)
