"""Draw small pictures of each arm's model: its density on the true density's scale, or its samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ebm_lab.core import pictures
from ebm_lab.core.random import subset
from ebm_lab.evaluation._raw_units import raw_densities
from ebm_lab.reports.compare.plan import safe
from ebm_lab.reports.compare.table import Line

CELLS = 159
"""Grid cells per side of a density's picture."""


def draw(lines: Sequence[Line], out: Path) -> dict[str, Path]:
    """Draw pictures and return their files by arm's name and by 'truth of <group>'; some arms may have none.

    All densities of a group have one scale. A group is a data set, with its setting if that is what varies.
    """
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    tops: dict[str, float] = {}
    for line in lines:
        if line.typical is None or not line.typical.get("run"):
            continue
        path = folder / f"{line.arm.name}.png"
        image = _of(out / line.typical["run"], group(line), tops, found, folder)
        if image is not None:
            save(image, path)
            found[line.arm.name] = path
    return found


def group(line: Line) -> str:
    """Return the arm's group: the arms of a group have the same true density."""
    own = line.arm.vary if line.arm.vary.startswith("dataset.") else ""
    return " ".join(filter(None, (line.arm.dataset, own)))


def _of(run: Path, group: str, tops: dict[str, float], found: dict[str, Path], folder: Path) -> Tensor | None:
    from ebm_lab.core.features import features_of
    from ebm_lab.runs.load import load_run

    loaded = load_run(run, evaluation={})
    energy, dataset = loaded.energy, loaded.dataset
    if "energy" not in features_of(energy) or dataset.mean.numel() > 2:
        samples = sorted((run / "images").glob("samples_*.png"))
        return _read(samples[-1]) if samples else None
    nodes, log_p, truth, _ = raw_densities(energy, dataset, subset(dataset.test, 2000), CELLS)
    if group not in tops:
        known = log_p if truth is None else truth
        tops[group] = float(known.exp().max())
        if truth is not None:
            path = folder / f"{safe('truth of ' + group)}.png"
            save(_panel(nodes, [truth.double()], tops[group]), path)
            found[f"truth of {group}"] = path
    values = [log_p] if truth is None or nodes.shape[1] == 2 else [truth.double(), log_p]
    return _panel(nodes, values, tops[group])


def _panel(nodes: Tensor, log_ps: Sequence[Tensor], top: float) -> Tensor:
    if nodes.shape[1] == 1:
        return _line(nodes, log_ps, top)
    from matplotlib import colormaps

    side = CELLS + 1
    p = (log_ps[-1].exp() / top).clamp(0, 1).view(side, side).T.flip(0)
    rgb = torch.from_numpy(colormaps["magma"](p.cpu().numpy())[..., :3])
    low, high = nodes[0], nodes[-1]
    height = round(side * min(max(float((high[1] - low[1]) / (high[0] - low[0])), 0.2), 5.0))
    image = (255 * rgb).round().permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(image, (height, side), mode="bilinear")[0].to(torch.uint8)


def _line(nodes: Tensor, log_ps: Sequence[Tensor], top: float) -> Tensor:
    """Draw a one-dimensional density as a solid line, and the truth dotted."""

    def paint(fig) -> None:
        axes = fig.subplots()
        for log_p, style in zip(reversed(log_ps), ("C0-", "k:"), strict=False):
            axes.plot(nodes[:, 0].cpu().numpy(), log_p.exp().cpu().numpy(), style, lw=1.2)
        axes.set(ylim=(0, 1.2 * top), yticks=[], xlabel="x")

    return pictures.figure(paint, 2.0, 1.5)


def _read(path: Path, widest: int = 320) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        image = image.convert("RGB")
        if image.width > widest:
            image = image.resize((widest, round(image.height * widest / image.width)))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def save(image: Tensor, path: Path) -> None:
    """Write a PNG of 64 colours, small enough for a page with dozens of them."""
    from PIL import Image

    Image.fromarray(image.permute(1, 2, 0).numpy()).quantize(64).save(path, optimize=True)


def montage(lines: Sequence[Line], found: dict[str, Path], path: Path) -> Path | None:
    """Draw all pictures of a data set as one, the truth first; returns None if there are none."""
    shown = [(name, found[name]) for name in dict.fromkeys(f"truth of {group(n)}" for n in lines) if name in found]
    titles = {f"truth of {group(n)}": "truth" if group(n) == n.arm.dataset else f"truth\n{n.arm.vary}" for n in lines}
    titles |= {n.arm.name: "\n".join(filter(None, (n.arm.objective, n.arm.vary))) for n in lines}
    shown += [(n.arm.name, found[n.arm.name]) for n in lines if n.arm.name in found]
    if not shown:
        return None
    images = [(titles[name], _read(file).permute(1, 2, 0).numpy()) for name, file in shown]
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    aspect = max(image.shape[0] / image.shape[1] for _, image in images)

    def paint(fig) -> None:
        panels = fig.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels:
            axes.axis("off")
        for axes, (title, image) in zip(panels, images, strict=False):
            axes.imshow(image)
            axes.set_title(title, fontsize=9 if max(map(len, title.split("\n"))) < 24 else 7)

    save(pictures.figure(paint, 1.7 * columns, rows * (1.6 * aspect + 0.3)), path)
    return path
