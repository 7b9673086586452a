"""The sets that evaluation=ood tells the held-out data from.

images:  classes that the splits leave out, other data sets, uniform noise, and interpolations, means of two images
points:  classes that the splits leave out, a uniform box wider than the data, and shifted data
bits, categories:  classes that the splits leave out, other data sets, all values with equal odds at each site
         (uniform), and independent sites with the data's frequencies (independent)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import EvalView, Report
from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import row_order, subset
from ebm_lab.core.registry import build, find
from ebm_lab.distributions.elementary import UniformBox
from ebm_lab.distributions.product import ProductBase, product_law
from ebm_lab.distributions.start import start_law

Others = Sequence[Mapping[str, Any]]


def sets_of(view: EvalView, points: int, others: Others, shift: float, report: Report) -> dict[str, Tensor]:
    """Return the held-out points first, then the sets that are not of the data's law, `points` of each at most; the
    report is told which of the `others` are left out, and why."""
    data, g = view.dataset, view.generator
    x = subset(view.held_out, points)
    sets = {"held-out": x}
    if data.outside is not None:
        sets["outside"] = subset(data.outside, points)
    sites = known_sites(data)
    if sites is not None:
        sets |= _others(data, others, points, report) if data.bounds is not None else {}
        sets["uniform"] = ProductBase(torch.zeros_like(data.mean), sites.one_hot).sample(len(x), g)
        return {**sets, "independent": product_law(data).sample(len(x), g)}
    if data.bounds is not None:
        sets |= _others(data, others, points, report)
        sets["uniform"] = start_law(data).sample(len(x), g)
        mixed = x[row_order(len(x)).to(x.device)]  # shuffled, since neighbouring rows may be of one class
        return {**sets, "interpolation": (mixed + mixed.roll(1, 0)) / 2}
    low, high = data.train.amin(0), data.train.amax(0)
    sets["uniform"] = UniformBox(low - (high - low) / 4, high + (high - low) / 4).sample(len(x), g)
    return {**sets, "shifted": _shifted(x, shift * data.scale, g)}


def _shifted(x: Tensor, distance: float, generator: Generator) -> Tensor:
    """Return x (n, *shape), each moved by this distance in a direction of its own."""
    direction = torch.empty_like(x).normal_(generator=generator)
    norm = per_sample(flat_sum(direction**2).sqrt(), x)
    return x + distance * direction / norm


def _others(own: Dataset, others: Others, points: int, report: Report) -> dict[str, Tensor]:
    """Return points of other data sets with the same shape and the same kind of values, as far as they are found."""
    found = {}
    for settings in others:
        name = str(settings.get("name"))
        if settings.get("root", "") is None:
            report.notes.append(f"ood: {name} is left out: the run's data have no folder, dataset.root, to find it in")
            continue
        if type(own) is find("dataset", name):
            continue
        try:
            other: Dataset = build("dataset", settings, f"evaluation.ood.others.{name}")
        except UserError as error:
            report.notes.append(f"ood: {name} is left out: {str(error).splitlines()[0]}")
            continue
        if other.event_shape != own.event_shape or other.space != own.space:
            kind = "" if other.space == own.space else f" of {other.space} values"
            report.notes.append(f"ood: {name} is left out: its images are {other.event_shape}{kind}")
            continue
        found[name] = subset(other.test, points).to(own.train)
    return found
