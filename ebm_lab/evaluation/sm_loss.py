"""The loss of score matching on held-out data, for any model that has a score; it needs no Z and no samples.

    J = E_test[ 1/2 |s|^2 + tr(grad_x s) ],    s = -grad_x E, or the output of a score network

J = 1/2 E|s_data - s|^2 - 1/2 E|s_data|^2: lower is better. The second term does not depend on the model, so J compares
models on the same data although the data's score is unknown. Its unit is 1 / length^2, in model space. `sm_loss_noise`
and `sm_loss_gaussian` are the losses of two baselines: N(mean, scale^2 I), and the Gaussian with the training data's
covariance (plus a thousandth of scale^2). If the data's density is known, `sm_loss_true` is the loss of the data's own
law, which is the least possible, and `sm_gap` the mean difference from it over points, the Fisher divergence
1/2 E|s_data - s|^2.

The loss is blind to the weights of modes that lie far apart (docs/theory.md). It is unbiased: up to `exact_dim`
dimensions the trace is exact; above, it is Hutchinson's unbiased v' (grad_x s) v, whose noise `sm_loss_se` includes. On
data that lie on a thin set, such as rounded numbers or grey levels, the data's score is infinite and J is unbounded
below: there a model with a low J may only have learnt the rounding. A model of many noise levels is taken at its
lowest.

Aapo Hyvarinen, Estimation of Non-Normalized Statistical Models by Score Matching, 2005, theorem 1.
Yang Song, Sahaj Garg, Jiaxin Shi and Stefano Ermon, Sliced Score Matching, 2019, section 6.1, arXiv:1905.07088.
"""

from functools import partial

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, divergence, flat_sum
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.models.levels import data_score

BATCH = 256
LARGEST = 4096
"""Largest dimension in which the covariance is inverted for a baseline."""


def hyvarinen(s: Tensor, trace: Tensor) -> Tensor:
    """Return 1/2 |s|^2 + tr(grad_x s), (B,), for scores s (B, *shape) and traces (B,)."""
    return 0.5 * flat_sum(s * s) + trace


@register("evaluation", "sm_loss")
class ScoreMatchingLoss(Evaluation):
    """Compute the loss of score matching on held-out data.

    `exact_dim`: largest dimension in which the trace is exact, by d backward passes. `projections`: vectors v per point
    above that dimension. `points`: most held-out points.
    """

    metrics = (Metric("sm_*"),)

    needs = (
        Need("dataset", "continuous", why="discrete data have no density, and so no score to match"),
        Need("energy", "smooth", why="an activation has no second derivative, so the trace would miss its kinks"),
    )

    def __init__(self, *, exact_dim: NonNegativeInt, projections: PositiveInt, points: PositiveInt) -> None:
        self.exact_dim, self.projections, self.points = exact_dim, projections, points

    def __call__(self, view: EvalView) -> Report:
        x = subset(view.held_out, self.points)
        exact = x[0].numel() <= self.exact_dim
        values = [self._loss(view.energy, part, exact, view.generator) for part in x.split(BATCH)]
        j = torch.cat(values).double().cpu()
        report = Report({"sm_loss": float(j.mean())} | _error("sm_loss_se", j) | _baselines(view.dataset, x))
        true = true_loss(view.dataset, x) if exact else None
        if true is not None:
            report.metrics |= {"sm_loss_true": float(true.mean()), "sm_gap": float((j - true).mean())}
            report.metrics |= _error("sm_gap_se", j - true)
        if view.dataset.bounds is not None:
            report.notes.append("sm_loss: grey levels have no score, so a low loss does not prove a good image model")
        return report

    def _loss(self, model: EnergyFn, x: Tensor, exact: bool, generator: Generator) -> Tensor:
        field = partial(data_score, model, create_graph=True)
        if exact:
            return hyvarinen(*divergence(field, x))
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.projections):
            v = torch.empty_like(x).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            total += hyvarinen(*divergence(field, x, v))
        return total / self.projections


def true_loss(dataset: Dataset, x: Tensor, step: float = 1e-3) -> Tensor | None:
    """Return the loss of the data's own law, (n,), by central differences of its log-density in float64.

    `step` is in units of the data's scale. Returns None if the density is unknown, or not smooth at these points.
    """
    y, h = x.detach().cpu().double(), step * dataset.scale
    middle = dataset.log_prob(y)
    if middle is None:
        return None
    values = torch.zeros(len(y), dtype=torch.float64)
    for i in range(y[0].numel()):
        shift = torch.zeros_like(y[0]).flatten()
        shift[i] = h
        shift = shift.view_as(y[0])
        ahead, behind = dataset.log_prob(y + shift), dataset.log_prob(y - shift)
        assert ahead is not None and behind is not None, "the density is known"
        values += 0.5 * ((ahead - behind) / (2 * h)) ** 2 + (ahead + behind - 2 * middle) / h**2
    return values if bool(values.isfinite().all()) else None


def _baselines(dataset: Dataset, x: Tensor) -> dict[str, float]:
    """Return the losses of two Gaussians with precision P, in closed form: 1/2 |P (x - mean)|^2 - tr P."""
    centred, d, scale2 = (x - dataset.mean).flatten(1).double().cpu(), x[0].numel(), dataset.scale**2
    found = {"sm_loss_noise": float((0.5 * flat_sum(centred**2) / scale2**2 - d / scale2).mean())}
    if 1 < d <= LARGEST:
        covariance = dataset.train.flatten(1).double().cpu().T.cov()
        precision = torch.linalg.inv(covariance + 1e-3 * scale2 * torch.eye(d, dtype=torch.float64))
        values = 0.5 * flat_sum((centred @ precision) ** 2) - precision.trace()
        found["sm_loss_gaussian"] = float(values.mean())
    return found


def _error(name: str, values: Tensor) -> dict[str, float]:
    """Return the standard error of the mean by name; nothing if there are fewer than two values."""
    return {name: float(values.std()) / len(values) ** 0.5} if len(values) > 1 else {}
