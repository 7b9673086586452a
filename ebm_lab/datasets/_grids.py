"""Whole numbers in a table: points on a grid, which have no density, and the noise that gives them one.

    x = k + s u,    u ~ U[-1/2, 1/2) in each such column,    s the step of its grid
    log P(k) = log int_{cell of k} p(x) dx >= E_u log p(k + s u) + sum log s

so that with a step of 1 the `nll_raw` of the spread rows is at least the negative log-probability of the numbers
themselves (Jensen). Without the noise a density can be made as high as one likes on the grid, and its likelihood says
nothing. Rounding to the grid takes the noise away again.

Benigno Uria, Iain Murray and Hugo Larochelle, RNADE: The real-valued neural autoregressive density-estimator, 2013,
arXiv:1306.0186. Lucas Theis, Aaron van den Oord and Matthias Bethge, A note on the evaluation of generative models,
2016, section 3.1, arXiv:1511.01844.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ebm_lab.core.random import stream

SHOWN = 6
"""Columns that a note names."""


def steps_of(raw: Tensor) -> Tensor:
    """Return the step of each coordinate's grid, (*shape) in float64: the largest number that divides all differences,
    for coordinates of whole numbers that occur twice on average; 0 for the others."""
    columns = raw.flatten(1).double().numpy().T
    whole = (columns == np.rint(columns)).all(1) & (np.abs(columns).max(1) < 2.0**53)
    steps = np.zeros(len(columns))
    for i in whole.nonzero()[0]:
        values = np.unique(columns[i])
        if 1 < len(values) <= len(columns[i]) / 2:
            steps[i] = np.gcd.reduce(np.diff(values).astype(np.int64))
    return torch.from_numpy(steps).view(raw.shape[1:])


def spread(raw: Tensor, steps: Tensor, seed: int) -> Tensor:
    """Return raw (n, *shape) plus uniform noise as wide as each coordinate's step, in float64."""
    u = torch.rand(raw.shape, dtype=torch.float64, generator=stream(seed, "dequantise"))
    return raw + steps * (u - 0.5)


def grid_note(raw: Tensor, steps: Tensor, names: Sequence[str] | None, dequantise: bool) -> list[str]:
    """Return a line that names the columns of whole numbers and says what they mean, or none if there are none."""
    found = [int(i) for i in steps.flatten().nonzero()[:, 0]]
    if not found:
        return ["dataset.dequantise=true: no column holds whole numbers that repeat"] if dequantise else []
    columns = raw.flatten(1)
    told = []
    for i in found[:SHOWN]:
        values = columns[:, i].unique()
        kind = f"{values[0]:g} or {values[1]:g}" if len(values) == 2 else f"whole numbers, {len(values)} values"
        told.append(f"{f'{names[i]!r}' if names and names[i] else i} ({kind})")
    which = f"column(s) {', '.join(told)}" + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    if dequantise:
        wide = steps.flatten()[found]
        log_steps = float(wide.log().sum())
        less = "" if log_steps == 0 else f" less {log_steps:.4g}, the sum of the log steps,"
        return [f"{which}: spread evenly over their cells; nll_raw{less} bounds the -log P of the numbers from above"]
    return [
        f"{which}: points on a grid, which have no density: the likelihood of a model that narrows around the grid "
        f"grows without bound; dataset.dequantise=true spreads them over their cells, or choose objective=dsm, which "
        f"learns the law blurred by objective.sigma"
    ]
