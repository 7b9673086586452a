"""Pictures of a critic of points of the plane, beside the best critic and their difference."""

import math
from typing import NamedTuple

from torch import Tensor

from ebm_lab.core import pictures


class Fields(NamedTuple):
    """nodes (N, 2), and the arrows there, (N, 2) each: those of the critic, and of the best one where it is known;
    points of the data (n, 2); `formula`: that of the best critic; size: the root mean square
    over the data of the best critic, or else of this one; `error`: its critic_error."""

    nodes: Tensor
    f: Tensor
    best: Tensor | None
    data: Tensor
    formula: str
    size: float
    error: float | None = None


class Heights(NamedTuple):
    """nodes (N, 2) of a grid, the first coordinate slowest, and the values there, (N,) each, of the critic, and of the
    best one where it is known; points of the data (n, 2)."""

    nodes: Tensor
    h: Tensor
    best: Tensor | None
    data: Tensor
    error: float | None = None


def draw_fields(d: Fields) -> Tensor:
    """Draw the critic's arrows. All panels have one scale: twice the root mean square `size`, to which longer
    arrows are cut."""
    panels = [("trained critic f", d.f)]
    if d.best is not None:
        panels += [(f"best critic f* = {d.formula}", d.best), (_difference("f", d.error), d.f - d.best)]
    gaps = (d.nodes[1:] - d.nodes[:-1]).abs().amax(1)
    spacing, top = float(gaps[gaps > 0].min()), _scale(2 * d.size)
    low, high = d.nodes.amin(0) - 1.5 * spacing, d.nodes.amax(0) + 1.5 * spacing
    ratio = min(max(float((high[1] - low[1]) / (high[0] - low[0])), 0.4), 1.6)

    def draw(fig) -> None:
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        arrows = None
        for ax, (title, field) in zip(axes, panels, strict=True):
            size = field.norm(dim=1)
            cut = field * (top / size.clamp_min(top))[:, None]
            ax.plot(*d.data.T.numpy(), ".", ms=1.5, color="0.82", zorder=0)
            arrows = ax.quiver(
                *d.nodes.T.numpy(),
                *cut.T.numpy(),
                size.clamp_max(top).numpy(),
                **{"cmap": "plasma", "clim": (0, 1.2 * top), "angles": "xy", "scale_units": "xy"},
                **{"scale": top / (1.8 * spacing), "width": 0.005, "minlength": 0.1, "pivot": "tail"},
            )
            _frame(ax, title, low, high)
        axes[0].quiverkey(
            arrows, 0.03, 0.04, top, rf"|f| $\geq$ {top:.2g}", labelpos="E", coordinates="figure", color="k"
        )
        bar = fig.colorbar(arrows, ax=list(axes), label="|f| at the arrow's foot", pad=0.01)
        bar.ax.set_ylim(0, top)
        fig.supxlabel("grey: held-out data; the energy's step moves the model's score along $-$f", fontsize=9)

    return pictures.figure(draw, 4.3 * len(panels) + 0.9, 4.0 * ratio + 0.9)


def draw_heights(d: Heights) -> Tensor:
    """Draw the critic's values as colours, with the line where it is 0. All panels have one scale."""
    side = round(len(d.nodes) ** 0.5)
    panels = [("trained critic h", d.h)]
    if d.best is not None:
        panels += [
            ("best critic h* = log p$_{data}$ $-$ log p$_{model}$", d.best),
            (_difference("h", d.error), d.h - d.best),
        ]
    shown = panels[0][1] if d.best is None else d.best
    top = _scale(float(shown.abs().float().quantile(0.98)))
    low, high = d.nodes[0], d.nodes[-1]

    def draw(fig) -> None:
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        image = None
        for ax, (title, values) in zip(axes, panels, strict=True):
            grid = values.float().view(side, side).T.numpy()
            extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
            image = ax.imshow(grid, origin="lower", extent=extent, cmap="RdBu_r", vmin=-top, vmax=top)
            if float(values.min()) < 0 < float(values.max()):
                ax.contour(grid, [0.0], extent=extent, colors="k", linewidths=0.7)
            ax.plot(*d.data[:500].T.numpy(), ".", ms=1.0, color="k", alpha=0.35)
            _frame(ax, title, low, high)
        fig.colorbar(image, ax=list(axes), label="nats", extend="both", shrink=0.85, pad=0.01)
        fig.supxlabel(
            "h > 0: more data than the model expects; line: h = 0; dots: held-out data, where critic_error is taken",
            fontsize=9,
        )

    return pictures.figure(draw, 4.3 * len(panels) + 0.9, 4.7)


def _scale(size: float) -> float:
    """Return the end of the scale: 1 for a critic that is 0 everywhere, or is not finite."""
    return size if math.isfinite(size) and size > 1e-9 else 1.0


def _difference(f: str, error: float | None) -> str:
    return rf"difference {f} $-$ {f}*" + ("" if error is None else f"  (critic_error {error:.3g})")


def _frame(ax, title: str, low: Tensor, high: Tensor) -> None:
    ax.set(xlim=(float(low[0]), float(high[0])), ylim=(float(low[1]), float(high[1])), aspect="equal")
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="x$_1$", ylabel="x$_2$")
