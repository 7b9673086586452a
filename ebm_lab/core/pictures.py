"""Pictures as (3, H, W) uint8 tensors: grids, strips and matplotlib figures."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def to_uint8(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Convert (n, C, H, W) in `bounds` to (n, 3, H, W) uint8; values outside are clipped, a single channel is
    repeated."""
    low, high = bounds
    unit = ((images.detach().cpu().float() - low) / (high - low)).clamp(0, 1)
    rgb = unit.expand(-1, 3, -1, -1) if unit.shape[1] == 1 else unit[:, :3]
    return (255 * rgb).round().to(torch.uint8)


def grid(images: Tensor, bounds: tuple[float, float], columns: int = 10, side: int = 40) -> Tensor:
    """Arrange (n, C, H, W) as one picture; small images are enlarged by whole factors to about `side` pixels."""
    from torchvision.utils import make_grid

    pixels = to_uint8(images, bounds)
    factor = max(1, side // pixels.shape[-1])
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return make_grid(pixels, nrow=columns, padding=2, pad_value=255)


def figure(draw: Callable, width: float, height: float) -> Tensor:
    """Render what `draw(figure)` draws with matplotlib on a canvas of `width` x `height` inches at 100 dpi."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure((width, height), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(fig)
    draw(fig)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1).contiguous()


def save_png(image: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def strips(rows: dict[str, Tensor], bounds: tuple[float, float], columns: int = 10) -> Tensor:
    """Draw the first `columns` images (n, C, H, W) of each row, with the row's name beside them."""

    def draw(fig) -> None:
        for axes, (name, images) in zip(fig.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            axes.imshow(grid(images[:columns], bounds, columns).permute(1, 2, 0).numpy(), aspect="equal")
            axes.set(xticks=[], yticks=[])
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
            axes.spines[:].set_visible(False)

    return figure(draw, 0.7 * columns + 1.3, 0.75 * len(rows))
