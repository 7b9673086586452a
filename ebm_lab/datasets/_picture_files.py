"""Picture files: what their numbers mean, and how each becomes a square of pixels from 0 (black) to 255 (white).

    range=auto          8 bits per channel are the numbers 0 to 255; unsigned 16 bits are 0 to 65535, of which the upper
                        8 bits are kept
    range=[low, high]   pixel = 255 (number - low) / (high - low), unrounded; numbers outside are refused

Under `auto`, other numbers (signed, 32 bits, real) are refused, because it is unclear which of them is white. Numbers
that are nan or inf are always refused. `background` shows through transparent parts. Pictures are rotated as their
camera recorded. If a file holds several pictures, the first is used. The shorter side is resized to `size`, and the
middle is kept.
"""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

BROKEN = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on files that are damaged, cut or of another kind."""
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
"""Numbers of TIFF tags."""
Kind = Literal["bytes", "upper bytes", "16 bits", "other"]
"""The numbers of a channel: 8 bits, the upper 8 of 16 (all that Pillow returns of such colours), 16 bits, or others."""


class Square(NamedTuple):
    """pixels: (C, size, size), bytes under `auto`, else float32; lowest, highest: numbers in the file, in its units;
    bits: per channel; several: whether the file holds more pictures; clear: whether the background shows."""

    pixels: Tensor
    lowest: float
    highest: float
    bits: int
    several: bool
    clear: bool


def read_square(
    file: Path, size: int, channels: int, limits: tuple[float, float] | None, background: str | None
) -> Square:
    """Read one picture. limits: the numbers that are black and white, or None for `auto`; background: a colour, or None
    to drop transparency.

    Raises ValueError with one line on what is wrong with the file.
    """
    from PIL import Image, ImageOps  # slow to import, needed only here

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata, and on pictures that are merely large
            with Image.open(file) as image:
                if 0 in image.size:
                    raise ValueError("it has no pixels")
                kind, several = _kind(image), bool(getattr(image, "is_animated", False))
                upright = ImageOps.exif_transpose(image)
                if image.mode == "F" or image.mode.startswith("I"):
                    numbers, clear = _wide(image, upright), False
                else:
                    flat, clear = _over(upright, background)
                    numbers = np.asarray(flat.convert("L" if channels == 1 else "RGB"))
        unit = 257 if kind == "upper bytes" else 1
        lowest, highest = (float(end) * unit for end in (numbers.min(), numbers.max()))
        pixels = _pixels(numbers, kind, (lowest, highest), size, limits)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(((str(error).splitlines() or [""])[0] or type(error).__name__)[:250]) from None
    square = torch.from_numpy(pixels).permute(2, 0, 1).expand(channels, size, size)
    return Square(square, lowest, highest, 8 if kind == "bytes" else 16, several, clear)


def _kind(image: Any) -> Kind:
    """Return what the numbers of an opened file mean.

    Raises ValueError for TIFFs that Pillow reads as something else.
    """
    wide = image.mode == "F" or image.mode.startswith("I")
    stored = [str(tile[3]) for tile in image.tile]
    sixteen = image.format in ("PNG", "PPM") and any(";16" in s or "65535" in s for s in stored)
    if image.format == "TIFF":
        tags = image.tag_v2
        sixteen = max(tags.get(BITS, (1,))) > 8
        if not wide and 2 in tags.get(SAMPLE_FORMAT, (1,)):
            raise ValueError("it holds signed 8-bit numbers, which are not supported")
        if not wide and sixteen and tags.get(PLANAR, 1) == 2:
            raise ValueError("it holds 16-bit colours one after another (planar), which is not supported")
        if wide and tags.get(PHOTOMETRIC, 1) == 0:
            raise ValueError("its smallest number is white (WhiteIsZero), which is supported for 8 bits only")
    if not wide:
        return "upper bytes" if sixteen else "bytes"
    whole = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, in a mode of 32
    return "16 bits" if whole or image.mode.startswith("I;16") else "other"


def _wide(image: Any, upright: Any) -> np.ndarray:
    """Return the numbers of a grey picture of more than 8 bits, (H, W) in float64."""
    if "transparency" in image.info:
        raise ValueError("one of its 16-bit greys is transparent, which is not supported; save it with 8 bits")
    numbers = np.asarray(upright)
    if image.format == "TIFF" and image.mode == "I" and image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == 1:
        numbers = numbers.view(np.uint32)  # unsigned 32 bits, which Pillow reads as signed
    numbers = numbers.astype(np.float64)
    if bad := int((~np.isfinite(numbers)).sum()):
        good = numbers[np.isfinite(numbers)]
        rest = f"; the others go from {good.min():g} to {good.max():g}" if good.size else ""
        raise ValueError(f"{bad} of its numbers are nan or inf{rest}")
    return numbers


def _over(image: Any, background: str | None) -> tuple[Any, bool]:
    """Return the picture over the background, and whether the background shows."""
    from PIL import Image

    if background is None or not ("transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa")):
        return image, False
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return image, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert("RGB"), True


def _pixels(
    numbers: np.ndarray, kind: Kind, seen: tuple[float, float], size: int, limits: tuple[float, float] | None
) -> np.ndarray:
    """Return pixels (size, size, C) from numbers (H, W) or (H, W, 3), by the rule in the module's docstring."""
    told = f"from {seen[0]:g} to {seen[1]:g}"
    if limits is None:
        if kind == "other":
            raise ValueError(
                f"its numbers, {told}, are neither 8-bit nor unsigned 16-bit, so it is unclear which is white: "
                f"give dataset.range=[black,white]"
            )
        return _fitted(numbers.astype(np.uint8) if kind != "16 bits" else (numbers // 257).astype(np.uint8), size)
    low, high = limits
    if kind == "upper bytes" and limits != (0, 65535):
        raise ValueError(
            "only the upper 8 bits of its 16-bit colours can be read: scale them to 16 bits and set dataset.range=auto"
        )
    if seen[0] < low or seen[1] > high:
        raise ValueError(f"its numbers, {told}, go beyond dataset.range=[{low:g}, {high:g}]")
    unit = 257 if kind == "upper bytes" else 1
    scaled = ((numbers.astype(np.float64) * unit - low) * (255 / (high - low))).astype(np.float32)
    planes = [_fitted(plane, size) for plane in np.moveaxis(np.atleast_3d(scaled), 2, 0)]
    return np.concatenate(planes, 2).clip(0, 255)  # resizing may overshoot


def _fitted(numbers: np.ndarray, size: int) -> np.ndarray:
    """Resize and crop bytes (H, W) or (H, W, 3), or float32 (H, W), to (size, size, C)."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(Image.fromarray(numbers), (size, size))).reshape(size, size, -1)
