"""Your own images: every picture in a folder and the folders below it, cut to squares of one size.

The shorter side is resized to `size`, the middle is kept, and pixels 0 to 255 are mapped linearly to [-1, 1]. If every
picture lies in a folder below the first, the names of those folders, sorted, are the labels 0, 1, ...
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.images import Images
from ebm_lab.core.registry import register
from ebm_lab.core.splits import split_indices

Fraction = Annotated[float, Field(gt=0, lt=1)]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@register("dataset", "image_folder")
class ImageFolder(Images):
    """`size`: pixels a side; `channels`: 1 for grey, 3 for colour; `val` and `test` are the fractions held out; `seed`
    shuffles."""

    def __init__(
        self,
        *,
        path: str,
        size: PositiveInt,
        channels: Literal[1, 3],
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        root = Path(path)
        files = find_images(root)
        parts = split_indices(len(files), val, test, seed)
        pixels = torch.stack([_load(file, size, channels, path) for file in files])
        labels = folder_labels(root, files)
        super().__init__(
            {s: pixels[i] for s, i in parts.items()},
            None if labels is None else {s: labels[i] for s, i in parts.items()},
        )


def find_images(root: Path) -> list[Path]:
    """All pictures below `root`, sorted; hidden files are passed over."""
    if not root.is_dir():
        raise UserError(f"dataset.path={root}: no such folder; give a folder of images")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file())
    if not files:
        raise UserError(f"dataset.path={root}: holds no images; allowed: {', '.join(SUFFIXES)}")
    return files


def folder_labels(root: Path, files: list[Path]) -> Tensor | None:
    """(n,): the number of each file's first-level folder; None if a file lies in `root` itself."""
    places = [file.relative_to(root).parts for file in files]
    if any(len(parts) == 1 for parts in places):
        return None
    names = sorted({parts[0] for parts in places})
    return torch.tensor([names.index(parts[0]) for parts in places])


def _load(file: Path, size: int, channels: int, path: str) -> Tensor:
    """One picture as bytes, (channels, size, size)."""
    from PIL import Image, ImageOps  # needed only here

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip and not scale
                upright = Image.fromarray((np.asarray(upright) // 257).clip(0, 255).astype(np.uint8))
            square = ImageOps.fit(upright.convert("L" if channels == 1 else "RGB"), (size, size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"dataset.path={path}: {file} can't be read as an image: {reason[:120]}") from None
    return torch.from_numpy(np.array(square)).view(size, size, channels).permute(2, 0, 1)
