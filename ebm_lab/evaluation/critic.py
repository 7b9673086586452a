"""Compare the critic that an objective trained with the best critic of the same model.

    lsd:    f* = (s_model - s_data) / (2 l2),    s = grad_x log p
    f_ebm:  h* = log p_data - log p_model, or the nearest value in the bounds of h
    critic_error  = sqrt( E|f - f*|^2 / E|f*|^2 )
    critic_cosine = E[f . f*] / sqrt( E|f|^2 E|f*|^2 )
    critic_best   = sqrt( E|f*|^2 )

Means are over held-out points, with the noise that training adds to the data; then the data's law is blurred by it too.
An error of 0 is the best critic, 1 that of a critic that is 0 everywhere. The cosine tells a critic that is wrong in
size alone (1) from one that points elsewhere. For a perfect model f* is 0 and no critic has a finite error: read it
beside `critic_best`, which has the unit of f. Each critic follows a model that moves, so that an error near 1 beside a
small `critic_best` says that there is little left to see, and beside a large one that the critic is too slow.

log p_model needs log Z: by a formula, by quadrature in one and two dimensions, or above them from exact samples of the
data's law, where these cover the model. If none of these can be trusted, h* is known up to a constant, which is chosen
such that h and h* have the same mean over the points; the error is then one of shape, and a note says so. The axes of
the pictures have the units in which the model sees the points.

Will Grathwohl et al., Learning the Stein Discrepancy for Training and Evaluating Energy-Based Models without Sampling,
2020, section 3, arXiv:2002.05616. Lantao Yu et al., Training Deep Energy-Based Models with f-Divergence Minimization,
2020, theorem 1, arXiv:2003.03463.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.functional import evaluate, flat_sum, frozen, in_parts
from ebm_lab.core.learnt import RatioCritic, ScoreCritic
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset, with_noise
from ebm_lab.core.registry import register
from ebm_lab.evaluation._critic_pictures import Fields, Heights, draw_fields, draw_heights
from ebm_lab.evaluation._importance import by_importance
from ebm_lab.evaluation._square import square_around
from ebm_lab.evaluation._truth import true_log_prob, true_score
from ebm_lab.evaluation.likelihood import exact_log_z
from ebm_lab.models.levels import data_score

Values = Callable[[Tensor], Tensor]
TRUSTED = 0.1
"""The largest error of log Z, in nats, with which h* is compared."""


def relative_error(f: Tensor, best: Tensor) -> tuple[float, float, float]:
    """Return (critic_error, critic_cosine, critic_best) for f and f* at n points, (n, *shape) each."""
    f, best = f.double().reshape(len(f), -1), best.double().reshape(len(f), -1)
    size, own = float(flat_sum(best**2).mean().sqrt()), float(flat_sum(f**2).mean().sqrt())
    error = float(flat_sum((f - best) ** 2).mean().sqrt())
    cosine = float(flat_sum(f * best).mean())
    return error / size if size else math.nan, cosine / (size * own) if size * own else math.nan, size


@register("evaluation", "critic")
class CriticError(Evaluation):
    """Compare the critic with its optimum, and draw both in two dimensions.

    `points`: most held-out points. `cells`: cells a side of the picture, and of the quadrature for log Z, as in
    evaluation.likelihood. `arrows`: arrows a side of the picture of a field.
    """

    silent = True
    metrics = (
        Metric(
            "critic_error",
            "error of the critic",
            "",
            "lower",
            "root mean square distance of the trained critic from the best critic of the model, relative to the size "
            "of the best; 1 for a critic that is 0 everywhere.",
        ),
        Metric("critic_cosine", "alignment of the critic", "", "higher", "1 if only the size of the critic is wrong."),
        Metric("critic_best", "size of the best critic", meaning="its root mean square; 0 for a perfect model."),
    )
    needs = (Need("dataset", "continuous", why="the best critic is compared on data with a density"),)

    def __init__(self, *, points: PositiveInt, cells: PositiveInt, arrows: PositiveInt) -> None:
        self.points, self.cells, self.arrows = points, cells, arrows

    def applies(self, view: EvalView) -> str | None:
        critic = _critic(view)
        if critic is None:
            return "the objective trains no critic beside the energy"
        known = true_score if isinstance(critic, ScoreCritic) else true_log_prob
        if view.dataset.event_shape != (2,) and known(view.dataset, view.blur) is None:
            return "the data's law is not known, and a critic is drawn in 2 dimensions only"
        return None

    def __call__(self, view: EvalView) -> Report:
        critic = _critic(view)
        assert critic is not None, "applies() asks for it"
        x = with_noise(subset(view.held_out, self.points), view.blur, view.generator)
        with frozen(view.energy):
            return self._scores(view, critic, x) if isinstance(critic, ScoreCritic) else self._ratios(view, critic, x)

    def _scores(self, view: EvalView, critic: ScoreCritic, x: Tensor) -> Report:
        truth, report = true_score(view.dataset, view.blur), Report()

        def best(y: Tensor) -> Tensor:
            assert truth is not None, "asked before"
            return critic.gain * (data_score(view.energy, y) - truth(y).to(y))

        optimum = None if truth is None else best
        values = _at(critic.f, x)
        self._numbers(report, values, optimum, x)
        if view.dataset.event_shape == (2,):
            nodes = _near(square_around(x, self.arrows), x)
            found = None if optimum is None else optimum(nodes).cpu()
            factor = "" if critic.gain == 1 else f"{critic.gain:.3g} "
            formula = rf"{factor}(s$_{{model}}$ $-$ s$_{{data}}$)"
            size = report.metrics.get("critic_best", float(values.norm(dim=1).square().mean().sqrt()))
            drawn = Fields(
                nodes.cpu(),
                _at(critic.f, nodes).cpu(),
                found,
                x[:1000].cpu(),
                formula,
                size,
                report.metrics.get("critic_error"),
            )
            report.images["critic"] = draw_fields(drawn)
        return report

    def _ratios(self, view: EvalView, critic: RatioCritic, x: Tensor) -> Report:
        truth, report, values = true_log_prob(view.dataset, view.blur), Report(), _at(critic.h, x)
        optimum = None if truth is None else self._best_ratio(view, critic, truth, (x, values), report.notes)
        self._numbers(report, values, optimum, x)
        if view.dataset.event_shape == (2,):
            nodes = square_around(x, self.cells)
            found = None if optimum is None else optimum(nodes).cpu()
            drawn = Heights(
                nodes.cpu(), _at(critic.h, nodes).cpu(), found, x[:1000].cpu(), report.metrics.get("critic_error")
            )
            report.images["critic"] = draw_heights(drawn)
        return report

    def _best_ratio(
        self, view: EvalView, critic: RatioCritic, truth: Values, seen: tuple[Tensor, Tensor], notes: list[str]
    ) -> Values:
        """Return h*; `seen`: points (n, *shape) and the critic's values there, (n,), for the constant if it is not
        known."""

        @torch.no_grad()
        def ratio(y: Tensor) -> Tensor:
            return truth(y).double() + in_parts(partial(evaluate, view.energy), y, 65_536).double()

        constant = self._log_z(view)
        if constant is None:
            constant = float((seen[1].double() - ratio(seen[0])).mean())
            notes.append("critic_error is one of shape: log Z is not known, and the constant of h* is fitted")
        return lambda y: (ratio(y) + constant).clamp(-critic.bound, critic.bound)

    def _numbers(self, report: Report, values: Tensor, best: Values | None, x: Tensor) -> None:
        if best is None:
            report.notes.append("the data's law is not known, and so not the best critic: the picture shows one alone")
            return
        names = ("critic_error", "critic_cosine", "critic_best")
        report.metrics |= dict(zip(names, relative_error(values, best(x)), strict=True))

    def _log_z(self, view: EvalView) -> float | None:
        """Return log Z in nats where it can be trusted."""
        found = exact_log_z(view, self.cells) or by_importance(view, Report())[0]
        sound = math.isfinite(found.value) and max(found.change, found.bound) <= TRUSTED
        return found.value if sound else None


def _critic(view: EvalView) -> ScoreCritic | RatioCritic | None:
    return None if view.objective is None else view.objective.learnt_critic()


@torch.no_grad()
def _at(critic: Values, x: Tensor) -> Tensor:
    """Return the critic's values at x (B, *shape)."""
    return in_parts(critic, x, 65_536)


def _near(nodes: Tensor, x: Tensor) -> Tensor:
    """Return the nodes (N, 2) that have one of the points x (n, 2) within one spacing of the grid."""
    spacing = float((nodes[1] - nodes[0]).norm())
    return nodes[torch.cdist(nodes, x).amin(1) <= spacing]
