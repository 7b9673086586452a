"""Your own images: every picture in a folder and its subfolders, cropped to squares of one size.

The shorter side is resized to `size`, the middle is kept, and pixels 0 to 255 are mapped linearly to [-1, 1].
`_picture_files.py` says how a file's numbers become such pixels. If every picture lies in a folder below the first,
the names of those folders, sorted, are the labels 0, 1, ...; `_folders.py` says which files are read. `notes` lists
skipped files and decisions.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from ebm_lab.core.errors import UserError
from ebm_lab.core.places import Place
from ebm_lab.core.registry import register
from ebm_lab.datasets._folders import find_pictures, folder_labels, shown
from ebm_lab.datasets._images import Images
from ebm_lab.datasets._picture_files import Square, read_square
from ebm_lab.datasets._splits import split_indices

Fraction = Annotated[float, Field(gt=0, lt=1)]
Range = Literal["auto"] | Annotated[list[float], Field(min_length=2, max_length=2)]


@register("dataset", "image_folder")
class ImageFolder(Images):
    """`size`: pixels per side; `channels`: 1 for grey, 3 for colour; `range`: [low, high], the numbers in the files
    that are black and white, or auto: 0 to 255 for 8 bits, 0 to 65535 for 16; `background`: the colour that shows
    through transparent parts, null: transparency is ignored; `val` and `test` are the fractions held out; `seed`
    shuffles."""

    def __init__(
        self,
        *,
        path: Place,
        size: PositiveInt,
        channels: Literal[1, 3],
        range: Range,
        background: str | None,
        val: Fraction,
        test: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        root, limits = Path(path), _limits(range)
        _check_colour(background)
        found = find_pictures(root)
        parts = split_indices(len(found.files), val, test, seed)
        squares = []
        for file in found.files:
            try:
                squares.append(read_square(file, size, channels, limits, background))
            except ValueError as error:
                raise UserError(f"dataset.path={path}: {shown(file)} can't be read as an image: {error}") from None
        labels, told = folder_labels(root, found)
        self.notes = [*found.notes, *told, *_remarks(squares, found.files, limits, path, background)]
        pixels = torch.stack([s.pixels for s in squares])
        super().__init__(
            {s: pixels[i] for s, i in parts.items()},
            None if labels is None else {s: labels[i] for s, i in parts.items()},
        )


def _limits(given: Range) -> tuple[float, float] | None:
    if given == "auto":
        return None
    low, high = given
    if not low < high:
        raise UserError(f"dataset.range={given}: must be auto, or two numbers of which the first is the smaller")
    return float(low), float(high)


def _check_colour(background: str | None) -> None:
    from PIL import ImageColor  # slow to import, needed only here

    try:
        plain = background is None or len(ImageColor.getrgb(background)) == 3
    except ValueError:
        plain = False
    if not plain:
        raise UserError(
            f"dataset.background={background}: not a colour; allowed: a name such as white, '#rrggbb', or null to drop "
            f"transparency"
        )


def _remarks(
    squares: list[Square], files: list[Path], limits: tuple[float, float] | None, path: str, background: str | None
) -> list[str]:
    """Return notes on the pictures as a whole.

    Raises UserError if 16-bit pictures have such small numbers that white is unclear.
    """
    notes = []
    for bits, dark in ((8, 64), (16, 32768)) if limits is None else ():
        of = [(s, file) for s, file in zip(squares, files, strict=True) if s.bits == bits]
        brightest, file = max(of, key=lambda pair: pair[0].highest, default=(None, None))
        if brightest is None or file is None or brightest.highest >= dark:
            continue
        told = f"from {brightest.lowest:g} to {brightest.highest:g}"
        if bits == 16 and brightest.highest < 4096:
            raise UserError(
                f"dataset.path={path}: {shown(file)} holds numbers {told}, and no picture of 16 bits here has a "
                f"larger one: give dataset.range=[0,4095] if they are of 12 bits, [0,65535] if they are dark"
            )
        notes.append(
            f"{path}: pictures of {bits} bits have numbers up to {brightest.highest:g}, and {2**bits - 1} is taken as "
            f"white; dataset.range=[0,<white>] chooses another"
        )
    if n := sum(s.several for s in squares):
        notes.append(f"{path}: {n} file(s) hold several pictures, of which the first is used")
    if n := sum(s.clear for s in squares):
        notes.append(f"{path}: {n} picture(s) are partly transparent, and drawn over dataset.background={background}")
    first: dict[bytes, Path] = {}
    copies = []
    for square, file in zip(squares, files, strict=True):
        key = hashlib.sha256(square.pixels.numpy().tobytes()).digest()
        if key in first:
            copies.append((file, first[key]))
        first.setdefault(key, file)
    if copies:
        one, other = (shown(f.relative_to(path)) for f in copies[0])
        notes.append(
            f"{path}: {len(copies)} picture(s) are copies of others, such as {one} of {other}; training and test may "
            f"share them"
        )
    return notes
