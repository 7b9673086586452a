"""Folders of pictures: which files are read, and which labels follow from their folders.

Links are followed, and a folder that is reached twice is read once, so that loops end. Hidden entries and those of
operating systems are skipped with everything below them, and so are files without the suffix of a picture.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SYSTEM = {"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
"""Folders that operating systems and network drives create, in lower case."""
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
"""Folder names that denote a split of the data and not a label, in lower case."""


class Found(NamedTuple):
    """files: the pictures, sorted; folders: the names of the first-level folders that were read; notes: what was
    skipped, for the user."""

    files: list[Path]
    folders: list[str]
    notes: list[str]


def find_pictures(root: Path) -> Found:
    """Return all pictures below `root`. Raises UserError if there are none, or a folder can't be read."""
    if not root.is_dir():
        raise UserError(f"dataset.path={root}: no such folder; give a folder of images")
    files, first, skipped = [], [], {"hidden": [], "strange": [], "lost": [], "again": []}
    todo, links, seen = [root], [], set()
    while todo or links:  # links last, so that a folder reached twice keeps its own name
        folder = todo.pop() if todo else links.pop(0)
        try:
            identity = (folder.stat().st_dev, folder.stat().st_ino)
            entries = [] if identity in seen else sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"dataset.path={root}: {shown(folder)} can't be read ({error.strerror})") from None
        if identity in seen:
            skipped["again"].append(folder)
            continue
        seen.add(identity)
        if folder.parent == root:
            first.append(folder.name)
        for entry in entries:
            path, link = Path(entry.path), entry.is_symlink()
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
                skipped["hidden"].append(path)
            elif os.path.isdir(entry.path) if link else entry.is_dir():
                (links if link else todo).append(path)
            elif path.suffix.lower() not in SUFFIXES:
                skipped["strange"].append(path)
            elif os.path.isfile(entry.path) if link else entry.is_file():
                files.append(path)
            else:
                skipped["lost"].append(path)
    told = _describe_skipped(skipped, root)
    if not files:
        raise UserError(f"dataset.path={root}: holds no images; allowed: {', '.join(SUFFIXES)}{told and f'; {told}'}")
    return Found(sorted(files), sorted(first), [f"{root}: {told}"] if told else [])


def _describe_skipped(skipped: dict[str, list[Path]], root: Path) -> str:
    """Describe the skipped entries in one line, or '' if there are none."""

    def first(paths: list[Path]) -> str:
        names = [shown(p.relative_to(root)) for p in sorted(paths)[:1]]
        return ", ".join([*names, *(["..."] if len(paths) > 1 else [])])

    kinds = Counter(p.suffix.lower() or "no suffix" for p in skipped["strange"])
    suffixes = ", ".join(f"{n} {shown(Path(kind))}" for kind, n in kinds.most_common(4))
    parts = [
        (skipped["hidden"], "hidden or system entries", first(skipped["hidden"])),
        (skipped["strange"], "files that are not pictures", suffixes),
        (skipped["lost"], "broken links and special files", first(skipped["lost"])),
        (skipped["again"], "links to folders that are read elsewhere", first(skipped["again"])),
    ]
    told = "; ".join(f"{len(paths)} {what} ({which})" for paths, what, which in parts if paths)
    return f"skipped {told}" if told else ""


def folder_labels(root: Path, found: Found) -> tuple[Tensor | None, list[str]]:
    """Return the label of each file, (n,), which is the number of its first-level folder among the sorted names, and
    notes for the user.

    There are no labels (None) if a picture lies in `root` itself. Folders named after splits, such as train and test,
    are not labels; the folders in them are.
    """
    places, notes = [file.relative_to(root).parts[:-1] for file in found.files], []
    bare = sorted({*found.folders} - {p[0] for p in places if p})
    if parts := sorted({p[0] for p in places if p and p[0].lower() in SPLITS}):
        if all(p and p[0] in parts for p in places):
            places = [p[1:] for p in places]
            notes += [f"{root}: {_names(parts)} are merged and split again, by dataset.val and dataset.test"]
        else:
            notes += [f"{root}: {_names(parts)} are taken as labels, because not all pictures are in such folders"]
    loose = [file for file, place in zip(found.files, places, strict=True) if not place]
    if loose:
        if len(loose) < len(places):
            one = shown(loose[0].relative_to(root))
            told = f"{len(loose)} of {len(places)} pictures are not in a label's folder ({one})"
            notes += [f"{root}: there are no labels, because {told}"]
        return None, notes
    names = sorted({place[0] for place in places})
    labels = [f"{i} {shown(Path(name))}" for i, name in enumerate(names)]
    notes += [f"labels by folder: {', '.join(labels if len(labels) < 13 else [*labels[:10], '...', labels[-1]])}"]
    if bare:
        notes += [f"{root}: {_names(bare)} hold no pictures and are not labels"]
    return torch.tensor([names.index(place[0]) for place in places]), notes


def _names(folders: list[str]) -> str:
    return "the folders " + ", ".join(shown(Path(f)) for f in folders[:8]) + (", ..." if len(folders) > 8 else "")


def shown(path: Path) -> str:
    """Return a path as one line that every terminal can print, with line ends and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))
