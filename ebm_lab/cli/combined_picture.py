"""The picture of a composition: the densities of its runs and of the composed law with samples, or a grid of images."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ebm_lab.core import pictures
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import evaluate
from ebm_lab.distributions.quadrature import framed_log_density

if TYPE_CHECKING:
    from ebm_lab.runs.composition import Composition
    from ebm_lab.runs.loaded import LoadedRun

CELLS = 150


def picture(x: Tensor, made: "Composition", first: "LoadedRun") -> Tensor | None:
    """Draw samples x (n, *shape) in the first run's space: images as a grid; in one or two dimensions the densities, in
    raw units; None for other points."""
    data = first.dataset
    if data.bounds is not None:
        return pictures.grid(x, data.bounds, max(1, round(len(x) ** 0.5)))
    if data.event_shape not in ((1,), (2,)):
        return None
    raw = data.transform.inverse(x.cpu()).double()
    around = torch.cat([raw, data.transform.inverse(made.points.cpu()).double()])
    laws: dict[str, nn.Module] = {f"run {i + 1}, weight {w:.3g}": part for i, (w, part) in enumerate(_weighed(made))}
    if "energy" in features_of(made.model):
        laws[made.op] = made.model
    found = {}
    for name, energy in laws.items():
        nodes, log_p, _ = framed_log_density(_in_raw_units(energy, first), around, CELLS)
        found[name] = (nodes, log_p.cpu())
    return _line(raw, found) if raw.shape[1] == 1 else _plane(raw, around, found)


def _weighed(made: "Composition") -> list[tuple[float, nn.Module]]:
    return list(zip(made.weights, made.parts, strict=True)) if made.parts else []


def _in_raw_units(energy: nn.Module, first: "LoadedRun"):
    """Return E as a function of raw points, with the log-determinant of the first run's map."""
    transform, mean = first.dataset.transform, first.dataset.mean

    def at(raw: Tensor) -> Tensor:
        x = transform.forward(raw.double().cpu())
        return evaluate(energy, x.to(mean)).double().cpu() - transform.log_det_at(x).cpu()

    return at


def _line(raw: Tensor, laws: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    def draw(fig) -> None:
        axes = fig.subplots()
        axes.hist(raw[:, 0].numpy(), 60, density=True, color="0.8", label="samples")
        for i, (name, (nodes, log_p)) in enumerate(laws.items()):
            last = i == len(laws) - 1
            axes.plot(nodes[:, 0].numpy(), log_p.exp().numpy(), "k" if last else "--", lw=2 if last else 1, label=name)
        axes.legend(frameon=False, fontsize=8)
        axes.set_xlabel("x (raw units)")

    return pictures.figure(draw, 6, 3.5)


def _plane(raw: Tensor, around: Tensor, laws: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    def draw(fig) -> None:
        ends = list(zip(around.amin(0).tolist(), around.amax(0).tolist(), strict=True))
        panels = fig.subplots(1, len(laws) + 1, squeeze=False)[0]
        for axes, (name, (nodes, log_p)) in zip(panels, laws.items(), strict=False):
            side, (low, high) = CELLS + 1, (nodes[0].tolist(), nodes[-1].tolist())
            extent = (low[0], high[0], low[1], high[1])
            ends = [(low[0], high[0]), (low[1], high[1])]
            axes.imshow(log_p.exp().view(side, side).T.numpy(), origin="lower", extent=extent, cmap="magma")
            axes.set(title=name, aspect="auto")
        panels[-1].plot(*raw.T.numpy(), ".", ms=2, alpha=0.6)
        panels[-1].set(title="samples", xlim=ends[0], ylim=ends[1])

    return pictures.figure(draw, 2.8 * (len(laws) + 1), 3.0)
