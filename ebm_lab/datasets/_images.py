"""Image data sets: bytes to pixels, held-out parts, and the official training and test sets of MNIST's format.

x = (pixel - 127.5) / 127.5,    pixels 0 to 255 on [-1, 1], (n, C, H, W) in float32, held in memory
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.transforms import Affine
from ebm_lab.datasets._splits import Classes, keep_classes

Fraction = Annotated[float, Field(gt=0, lt=1)]
HeldOut = PositiveInt | Fraction
"""A number of images, or a fraction of them."""


class Images(Dataset):
    """Image data made from splits of bytes (n, C, H, W), with labels (n,) if there are any."""

    def __init__(self, splits: dict[str, Tensor], labels: dict[str, Tensor] | None) -> None:
        self.bounds = (-1.0, 1.0)
        self.transform = Affine(torch.tensor(127.5), torch.tensor(127.5))
        self.train, self.val, self.test = (self.transform.forward(splits[s]) for s in ("train", "val", "test"))
        self.labels = labels


class OfficialImages(Images):
    """The official test set, and the official training set without `val`, which is drawn with `seed`.

    training, testing: (bytes (n, C, H, W), labels (n,)). Images of classes other than `classes` are left out; those of
    the test set become `outside`.
    """

    def __init__(
        self, training: tuple[Tensor, Tensor], testing: tuple[Tensor, Tensor], val: HeldOut, seed: int, classes: Classes
    ) -> None:
        parts = hold_out(len(training[0]), val, seed)
        splits, labels = ({**{s: training[i][index] for s, index in parts.items()}, "test": testing[i]} for i in (0, 1))
        splits, labels, outside = keep_classes(splits, labels, classes)
        super().__init__(splits, labels)
        self.outside = None if outside is None else self.transform.forward(outside)


def hold_out(n: int, val: HeldOut, seed: int) -> dict[str, Tensor]:
    """Return shuffled disjoint indices of `train` and `val` among n."""
    count = val if isinstance(val, int) else round(n * val)
    if not 1 <= count < n:
        raise UserError(f"dataset.val={val}: takes {count} of the {n} training images: each split needs at least one")
    order = torch.randperm(n, generator=stream(seed, "split"))
    return {"val": order[:count], "train": order[count:]}


IDX = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AssertionError,
    OverflowError,
    MemoryError,
)
"""What torchvision raises on files that are damaged, cut or of another kind."""


def idx_pair(name: str, root: str, download: bool) -> list[tuple[Tensor, Tensor]]:
    """Return the training and the test set of the torchvision data set `name`, each as bytes (n, 1, H, W) and labels
    (n,).

    Reads <root>/<name>/raw/*-ubyte; missing files are fetched if `download`. If the files can't be had, raises
    UserError, which says where to put them.
    """
    import torchvision.datasets  # a slow import, needed only here

    source, folder = getattr(torchvision.datasets, name), Path(root) / name / "raw"
    missing = [f for f in IDX if not (folder / f).is_file()]
    try:
        if missing and download:
            source(root, train=True, download=True)
        if missing:  # now downloaded, or in torchvision's old format, or else this raises
            sets = [source(root, train=train, download=False) for train in (True, False)]
            pairs = [(s.data.unsqueeze(1), s.targets.long()) for s in sets]
        else:
            files = [_idx(folder / f) for f in IDX]
            pairs = [(files[i].unsqueeze(1), files[i + 1].long()) for i in (0, 2)]
        _check_pairs(pairs)
    except BROKEN as error:
        packed = [folder / f"{f}.gz" for f in missing]
        raise unavailable(name, root, folder, IDX, missing, download, error, packed) from None
    return pairs


def _idx(file: Path) -> Tensor:
    """Read the bytes of a file in MNIST's format, in their shape; errors are among BROKEN, and name the file."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    refuse_packed(file)
    try:
        return (read_image_file if "images" in file.name else read_label_file)(str(file))
    except BROKEN as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(f"{file.name} is damaged or not a file of its kind: {reason}") from None


def _check_pairs(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Raise ValueError if images and labels do not match."""
    for (images, labels), file, other in zip(pairs, IDX[::2], IDX[1::2], strict=True):
        if images.numel() == 0:
            raise ValueError(f"{file} holds no images")
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        if int(labels.max()) > 9:
            raise ValueError(f"{other} holds the label {int(labels.max())}, and labels go from 0 to 9")
    sides = [tuple(images.shape[2:]) for images, _ in pairs]
    if sides[0] != sides[1]:
        raise ValueError(f"{IDX[0]} holds images of {sides[0]} pixels and {IDX[2]} of {sides[1]}")


def refuse_packed(file: Path) -> None:
    """Raise ValueError if the file is still packed."""
    with file.open("rb") as content:
        start = content.read(4)
    for kind, mark in (("gzip", b"\x1f\x8b"), ("zip", b"PK\x03\x04")):
        if start.startswith(mark):
            raise ValueError(f"{file.name} is packed ({kind}): unpack it")


def unavailable(
    name: str,
    root: str,
    folder: Path,
    files: tuple[str, ...],
    missing: list[str],
    download: bool,
    error: BaseException | None,
    packed: Sequence[Path] = (),
) -> UserError:
    """Return the error for a data set that is missing, can't be fetched or can't be read; `packed`: paths where it may
    lie packed."""
    put = f"put {', '.join(files)} into {folder}"
    cause = ((str(error).splitlines() or [""])[0] or type(error).__name__)[:160]
    if missing and download:
        return UserError(f"dataset.root={root}: {name} is not there and can't be downloaded ({cause}); {put}")
    if missing:
        there = f"{name} is not there ({len(missing)} of {len(files)} files missing)"
        found = next((f"; {p.name} is there: unpack it" for p in packed if p.is_file()), "")
        return UserError(f"dataset.root={root}: {there}{found}; {put}, or set dataset.download=true")
    return UserError(f"dataset.root={root}: the files of {name} can't be read ({cause}); {put}, unpacked and undamaged")
