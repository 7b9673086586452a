"""Look at each noise level of a model: its density beside the data's blurred law, and its normaliser.

    q_t = p * N(0, t I),  t = sigma^2;    log p_model(x, t) = -E(x, t) - log Z(t)
    levels_log_z = max_t |log Z(t) - c|
    levels_gap   = mean_t KL(q_t || p_model(., t)),    KL by its mean over held-out points with noise of level t

c is the one constant that an objective learns for all levels (dual_sm: log Z at the top; tre: 0), and levels_log_z is 0
if it normalises every level. Objectives that train each level by its score alone leave Z(t) free, and have no such
number. log Z(t) is taken by adaptive quadrature in one and two dimensions; a value of levels_gap below 0 is then within
a few standard errors, `levels_gap_se`, of the mean over points. Above them p_model is normalised by c, where it is
learnt, and levels_gap may be below 0 because Z(t) is what c says only if the model is right. The blurred law is known
for Gaussians, their mixtures and curves with Gaussian noise (distributions/blurred.py). The axes of the pictures
have the units in which the model sees the points.

A model of many levels is more than its lowest one: chains that go down the levels, and the probability flow, use them
all, and an error at a high level is one of the weights of distant modes below it.

Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score matching,
2025, arXiv:2506.05310.
"""

import math
from functools import partial
from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset, with_noise
from ebm_lab.core.registry import register
from ebm_lab.distributions.quadrature import cubature_log_z
from ebm_lab.evaluation._level_pictures import Level, draw_levels
from ebm_lab.evaluation._square import square_around
from ebm_lab.evaluation._truth import true_log_prob
from ebm_lab.models.levels import NoiseEnergy

TRUSTED = 0.1
"""The largest error of log Z, in nats, with which a level is shown."""


@register("evaluation", "levels")
class Levels(Evaluation):
    """Compare the model with the blurred data at several levels of its ladder, evenly spaced in log sigma.

    `levels`: their number. `points`: most held-out points. `cells`: cells a side of the picture, and of the quadrature
    for log Z, as in evaluation.likelihood.
    """

    silent = True
    metrics = (
        Metric(
            "levels_log_z",
            "largest |log Z|",
            "nats",
            "lower",
            "of a model that claims to be normalised at every noise level, over several of them; 0 is right.",
        ),
        Metric("levels_log_z_*", unit="nats", meaning="log Z minus what the objective learnt, at one level."),
        Metric(
            "levels_gap",
            "mean gap of the levels",
            "nats",
            "lower",
            "KL(blurred data || model), mean of several levels.",
        ),
        Metric("levels_gap_se", unit="nats"),
        Metric("levels_gap_*", unit="nats", good="lower", meaning="KL(blurred data || model) at one level."),
    )
    needs = (
        Need("dataset", "continuous", why="noise levels are those of continuous data"),
        Need("energy", "levels", why="the model has one level"),
        Need("energy", "energy", why="a score network has no energy whose levels have a density"),
    )

    def __init__(self, *, levels: Annotated[int, Field(ge=2)], points: PositiveInt, cells: PositiveInt) -> None:
        self.levels, self.points, self.cells = levels, points, cells

    def applies(self, view: EvalView) -> str | None:
        if view.objective is not None and not view.objective.trains_levels():
            return "the objective trains the lowest noise level alone"
        known = view.learnt_log_z is not None and true_log_prob(view.dataset, view.blur or 1.0) is not None
        if _is_low(view) or known:
            return None
        return f"log Z of a level is had by quadrature in 1 and 2 dimensions, not {view.dataset.event_shape}"

    @torch.no_grad()
    def __call__(self, view: EvalView) -> Report:
        report, drawn = Report(), list[Level]()
        ladder = cast(NoiseEnergy, view.energy).ladder
        few, errors, gaps = subset(view.held_out, self.points), [], []
        for i in range(self.levels):
            sigma = ladder.sigma(i / (self.levels - 1))
            level = self._level(view, sigma, with_noise(few, sigma, view.generator), report)
            if level is None:
                continue
            error, gap = level.log_z_error, level.gap
            errors += [] if error is None else [error]
            gaps += [] if gap is None else [gap]
            report.metrics |= {} if error is None else {f"levels_log_z_{i + 1}": error}
            report.metrics |= {} if gap is None else {f"levels_gap_{i + 1}": float(gap.mean())}
            drawn.append(level)
        if errors:
            report.metrics["levels_log_z"] = max(abs(error) for error in errors)
        if gaps:
            each = torch.stack(gaps).mean(0)  # the levels share their points
            spread = float(each.std(correction=0)) / math.sqrt(len(each))
            report.metrics |= {"levels_gap": float(each.mean()), "levels_gap_se": spread}
        if view.dataset.event_shape == (2,) and drawn:
            report.images["levels"] = draw_levels(drawn, self.cells)
        return report

    def _level(self, view: EvalView, sigma: float, x: Tensor, report: Report) -> Level | None:
        """Return what is known of one level, for held-out points x (n, *shape) with its noise; None if it can't be
        normalised."""
        energy: EnergyFn = cast(NoiseEnergy, view.energy).given(sigma=sigma)
        log_z, learnt, error = view.learnt_log_z, view.learnt_log_z, None
        if _is_low(view):
            found = cubature_log_z(energy, x, self.cells)
            doubt = max(found.change, found.bound)
            if found.trouble or not doubt <= TRUSTED:
                why = found.trouble or f"log Z is uncertain by {doubt:.2g} nats"
                report.notes.append(f"the level sigma={sigma:.3g} is left out: {why}")
                return None
            log_z, error = found.value, None if learnt is None else found.value - learnt
        assert log_z is not None, "applies() asks for it"
        truth = true_log_prob(view.dataset, sigma)
        gap = None
        if truth is not None:
            log_p = -in_parts(partial(evaluate, energy), x, 65_536).double() - log_z
            gap = (in_parts(truth, x, 4096).double() - log_p).cpu()
        if view.dataset.event_shape != (2,):
            return Level(sigma, error, gap)
        nodes = square_around(x, self.cells)
        model = -in_parts(partial(evaluate, energy), nodes, 65_536).double() - log_z
        true = None if truth is None else in_parts(truth, nodes, 4096).double().cpu()
        return Level(sigma, error, gap, nodes.cpu(), model.cpu(), true)


def _is_low(view: EvalView) -> bool:
    return math.prod(view.dataset.event_shape) <= 2 and len(view.dataset.event_shape) == 1
