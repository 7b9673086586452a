"""The picture of a model's noise levels: one column for each, the model above the data's blurred law."""

import math
from typing import NamedTuple

from torch import Tensor

from ebm_lab.core import pictures

DEPTH = 8.0
"""Colours show log densities down to this many nats below the highest."""

LINES = (-6, -4, -2, -1)
"""Where lines of equal density are drawn."""


class Level(NamedTuple):
    """A noise level: log Z minus the one that the objective learnt, and log q_t - log p at points of the blurred law
    q_t, (n,), in nats, where they are known. In two dimensions also nodes (N, 2) of a grid, and the log densities of
    the model and of the blurred law there, (N,)."""

    sigma: float
    log_z_error: float | None
    gap: Tensor | None
    nodes: Tensor | None = None
    log_p: Tensor | None = None
    truth: Tensor | None = None


def draw_levels(levels: list[Level], cells: int) -> Tensor:
    """Draw log p(x, t) of each level, from the highest to the lowest. Colours are nats relative to the highest value of
    the blurred law, or of the model where that is not known, the same in both panels of a level."""
    known = [level for level in levels if level.truth is not None]
    rows = 2 if known else 1

    def draw(fig) -> None:
        panels = fig.subplots(rows, len(levels), squeeze=False)
        image = [_column(column, level, cells) for column, level in zip(panels.T, levels, strict=True)][-1]
        label = f"nats relative to the highest value{' below' if known else ''}"
        fig.colorbar(image, ax=list(panels[:, -1]), label=label, extend="min", aspect=15 * rows, pad=0.03)
        panels[0, 0].set_ylabel("model\nlog p(x, t)", fontsize=11)
        if rows == 2:
            panels[1, 0].set_ylabel("blurred data\nlog q$_t$(x)", fontsize=11)

    return pictures.figure(draw, 2.7 * len(levels) + 1.3, 2.65 * rows + 0.5)


def _column(column, level: Level, cells: int):
    """Draw the panels of one level, and return the image of the last."""
    assert level.nodes is not None and level.log_p is not None, "drawn in two dimensions"
    low, high = level.nodes[0], level.nodes[-1]
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    top = float((level.log_p if level.truth is None else level.truth).max())
    image = None
    for ax, values in zip(column, (level.log_p, level.truth), strict=False):
        if values is None:
            continue
        grid = (values - top).view(cells, cells).T.numpy()
        image = ax.imshow(grid, origin="lower", extent=extent, cmap="magma", vmin=-DEPTH, vmax=0)
        ax.contour(grid, LINES, extent=extent, colors="w", linewidths=0.5, linestyles="solid", alpha=0.7)
        ax.tick_params(labelsize=8)
    column[0].set_title(_title(level), fontsize=10)
    return image


def _title(level: Level) -> str:
    lines = [rf"$\sigma$ = {level.sigma:.3g}  (t = {level.sigma**2:.2g})"]
    numbers = []
    if level.log_z_error is not None and math.isfinite(level.log_z_error):
        numbers.append(f"log Z = {level.log_z_error:+.3f}")
    if level.gap is not None and bool(level.gap.isfinite().all()):
        numbers.append(f"KL = {float(level.gap.mean()):.3f}")
    return "\n".join([*lines, ",  ".join(numbers)]) if numbers else lines[0]
