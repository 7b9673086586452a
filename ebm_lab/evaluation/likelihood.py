"""Held-out likelihood, exact where it can be had.

    nll = E_test[ E(x) ] + log Z,    nll_gap = nll - E_test[ -log p_data(x) ]

The gap estimates KL(p_data || p_model) on the same points. log Z comes from the energy's own formula where it has one,
else in one and two dimensions from the trapezoid rule on a box around the data, which grows until log Z no longer
changes: the metric `log_z_change` is what the last growth added, so the mass outside the box is seen and not assumed.
Where the objective learns log Z itself (nce), `log_z_error` is what it learnt minus this one. For images also in bits
per dimension (core/bits.py).
"""

from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.bits import PIXELS, bits_per_dim
from ebm_lab.core.functional import evaluate, in_parts
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.quadrature import box_log_z
from ebm_lab.core.registry import register
from ebm_lab.core.view import EvalView, Report


@register("evaluation", "likelihood")
class Likelihood:
    """`cells`: of the smallest box, a side."""

    def __init__(self, *, cells: PositiveInt) -> None:
        self.cells = cells
        self._true: dict[str, float | None] = {}

    def applies(self, view: EvalView) -> str | None:
        if not view.has_energy:
            return "a score network has no energy; its likelihood is that of flow_likelihood"
        if _formula(view) is not None or _is_low(view):
            return None
        return f"log Z has no formula here, and quadrature serves 1 and 2 dimensions, not {view.dataset.event_shape}"

    def __call__(self, view: EvalView) -> Report:
        report, known = Report(), exact_log_z(view, self.cells)
        assert known is not None, "applies() asks for it"
        log_z, change = known
        if change is not None:
            report.metrics["log_z_change"] = change
            if change > 1e-2:
                report.notes.append(
                    f"log Z still changes by {change:.2g} nats when the box grows: the model may have no Z"
                )
        with torch.no_grad():
            e = in_parts(partial(evaluate, view.energy), view.held_out, 65_536)
        nll = float(e.double().mean()) + log_z
        report.metrics |= {"nll": nll, "log_z": log_z}
        if view.dataset.bounds is not None:
            report.metrics["bits_per_dim"] = bits_per_dim(nll, view.dataset)
            report.notes.append(PIXELS)
        if view.learnt_log_z is not None:
            report.metrics["log_z_error"] = view.learnt_log_z - log_z
        true = self._true_nll(view)
        if true is not None:
            report.metrics |= {"nll_true": true, "nll_gap": nll - true}
        return report

    def _true_nll(self, view: EvalView) -> float | None:
        if view.split not in self._true:
            log_p = view.dataset.log_prob(view.held_out)
            self._true[view.split] = None if log_p is None else -float(log_p.double().mean())
        return self._true[view.split]


def exact_log_z(view: EvalView, cells: int) -> tuple[float, float | None] | None:
    """log Z in nats by the energy's formula, or in 1 and 2 dimensions by quadrature with its last change; else None."""
    exact = _formula(view)
    if exact is not None:
        return float(exact), None
    return box_log_z(view.energy, view.dataset.train, cells) if _is_low(view) else None


def _is_low(view: EvalView) -> bool:
    return len(view.dataset.event_shape) == 1 and view.dataset.event_shape[0] <= 2


def _formula(view: EvalView) -> Tensor | None:
    with torch.no_grad():
        return view.energy.exact_log_z() if isinstance(view.energy, Energy) else None
