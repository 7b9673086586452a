"""Held-out likelihood by the probability-flow ODE, for energies and score networks with many noise levels.

    flow_nll = -E_test[ log q_sigma_min(x) ],    log q_sigma_min by models/probability_flow.py

in nats, of the model's law at its lowest level, for data without added noise. For an energy this is the law to which
the scores at all levels transport the noise; it equals exp(-E(x, sigma_min)) / Z only as far as the levels are
consistent. The divergence is exact up to `exact_dim` dimensions, with d backward passes a step; above, it is
Hutchinson's estimate, whose noise is included in the standard error over points `flow_nll_se`. `flow_error` is the
change that half the steps would make, on a tenth of the points. For images the result is also given in bits per
dimension (_bits_per_dim.py).
"""

from typing import Annotated, cast

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.evaluation._bits_per_dim import PIXELS, bits_per_dim
from ebm_lab.evaluation._raw_units import raw_twin
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.models.probability_flow import flow_log_prob


@register("evaluation", "flow_likelihood")
class FlowLikelihood(Evaluation):
    """Compute the held-out likelihood by the probability-flow ODE.

    `steps`: Runge-Kutta steps in log sigma. `exact_dim`: largest dimension with an exact divergence. `points`: most
    held-out points.
    """

    metrics = (
        Metric(
            "flow_nll_gap",
            "gap by the flow",
            "nats",
            "lower",
            "the gap of the probability-flow ODE's likelihood.",
            shown=("compare", "report", "sweep"),
            rank=20,
        ),
        Metric("flow_nll", unit="nats", good="lower"),
        Metric("flow_nll_raw", unit="nats", good="lower"),
        Metric("flow_nll_se", unit="nats"),
        Metric("flow_error", unit="nats"),
        Metric("flow_bits_per_dim", unit="bits", good="lower"),
    )
    silent = True

    needs = (
        Need("dataset", "continuous", why="discrete data have no density that could flow along noise levels"),
        Need("energy", "levels", why="the model has no noise levels to flow along"),
    )

    def __init__(self, *, steps: Annotated[int, Field(ge=2)], exact_dim: NonNegativeInt, points: PositiveInt) -> None:
        self.steps, self.exact_dim, self.points = steps, exact_dim, points

    def __call__(self, view: EvalView) -> Report:
        model = cast(NoiseLevels, view.energy)
        x = subset(view.held_out, self.points)
        v = None
        if x[0].numel() > self.exact_dim:
            v = torch.empty_like(x).bernoulli_(0.5, generator=view.generator).mul_(2).sub_(1)
        log_p = self._log_prob(model, x, v, self.steps)
        few = max(1, len(x) // 10)
        coarse = self._log_prob(model, subset(x, few), None if v is None else subset(v, few), self.steps // 2)
        metrics = {
            "flow_nll": -float(log_p.mean()),
            "flow_error": float((subset(log_p, few) - coarse).abs().mean()),
        }
        metrics |= raw_twin("flow_nll", metrics["flow_nll"], view.dataset, x)
        if len(x) > 1:
            metrics["flow_nll_se"] = float(log_p.std()) / len(x) ** 0.5
        true = view.dataset.log_prob(x)
        if true is not None:
            metrics["flow_nll_gap"] = float((true.double() - log_p).mean())
        if view.dataset.bounds is None:
            return Report(metrics)
        metrics["flow_bits_per_dim"] = bits_per_dim(metrics["flow_nll"], view.dataset)
        return Report(metrics, notes=[PIXELS])

    def _log_prob(self, model: NoiseLevels, x: Tensor, v: Tensor | None, steps: int) -> Tensor:
        parts = zip(x.split(1000), [None] * len(x) if v is None else v.split(1000), strict=False)
        return torch.cat([flow_log_prob(model, a, steps, b) for a, b in parts]).double()
