"""Out-of-distribution detection: does the model distinguish held-out data from other sets?

Each detection score is higher the more x looks like the data:

    energy        -E(x)
    gradient      -|grad_x log p(x)|, which is near 0 at the modes of p
    typicality    -|E(x) - mean E over the training data|
    residual      -mean over levels and draws of |sigma s(x + sigma z, sigma) + z|^2 / d: the error of denoising x; for
                  models of many levels, and for a plain energy if `sigma` is given
    refined       E(x_K) - E(x) after K steps x <- x - (eps^2 / 2) grad E without noise: an outlier loses much energy
    max_prob      max_y p(y | x), for models with labels
    entropy       -H(y | x), for models with labels
    truth         log p_data(x), if it is known: the ceiling

They are compared with trivial baselines, and with a strong one:

    intensity     the mean pixel; for points instead distance, -|x - mean of the training data|
    constant      the same for all points: AUROC 0.5, FPR95 1
    nearest       -distance to the nearest training point, which keeps all of them: strong

The energy score of a classifier, the logsumexp of its logits, is no score of its own here: the logits of a model with
labels are -E(x, y), with every term of the energy in them, so that it is -E(x).

Held-out data are the positives. `ood_auroc_<score>_<set>` is the probability that a held-out point scores higher than a
point of the other set, `ood_aupr_..` the average precision (0.5 for a constant), `ood_fpr95_..` the share of the other
set above the threshold that 95 % of the held-out data pass (statistics/detection.py). `.._low` and `.._high` bound the
95 % bootstrap interval over the points, for this one model; another seed can lie outside. The sign of intensity is
chosen for each set such that its AUROC is at least 0.5, which no detector could know: it is the best that this number
can do. Typical data need not have the highest likelihood, so a model can be worse than this baseline.

The sets are `outside` (classes that the splits leave out), other data sets (`others`) of the same shape if they are
found, uniform noise and interpolations (means of two held-out images); for points a uniform box and shifted data; for
discrete data uniform and independent sites (_ood_sets.py), without scores that move x or take a gradient in it.

Eric Nalisnick et al., Do Deep Generative Models Know What They Don't Know?, 2019, arXiv:1810.09136. Eric Nalisnick et
al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, 2019, arXiv:1906.02994. Will
Grathwohl et al., Your Classifier is Secretly an Energy Based Model, 2020, section 5.3, arXiv:1912.03263 (gradient, and
max_prob). Dan Hendrycks and Kevin Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in
Neural Networks, 2017, arXiv:1610.02136 (max_prob).
"""

from functools import partial
from typing import Any, Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core import pictures
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import evaluate, flat_sum, in_parts
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.evaluation._ood_scores import can_refine, certainty, energy_lost, nearness, residual, step_size
from ebm_lab.evaluation._ood_sets import sets_of
from ebm_lab.evaluation._ood_table import Pairs, pairs_of, roc, verdict
from ebm_lab.evaluation._shown import as_images
from ebm_lab.models.levels import NoiseLevels, data_score
from ebm_lab.statistics.detection import detection, intervals

IMPOSSIBLE = -1e30
"""log p_data in nats of points that the data's law can't have: a finite number, below all others."""


@register("evaluation", "ood")
class OutOfDistribution(Evaluation):
    """Distinguish held-out data from other sets by the model's scores.

    `points`: most points of each set. `resamples`: resamples of the bootstrap. `levels`, `draws`: noise levels, and
    noise vectors per level, over which the residual is averaged. `sigma`: noise level of a plain energy's residual, in
    units of the data's scale; null leaves the residual out. `shift`: distance of shifted points, in the same unit.
    `others`: other data sets by their settings; those that are not found are left out. `refine_steps`,
    `refine_step_size`: K and eps of `refined`, eps in the same unit; auto: the step of the run's sampler if it is
    fixed, else 0.25; null leaves the score out.
    """

    metrics = (Metric("ood_*"),)

    def __init__(
        self,
        *,
        points: PositiveInt,
        resamples: PositiveInt,
        levels: PositiveInt,
        draws: PositiveInt,
        sigma: PositiveFloat | None,
        shift: PositiveFloat,
        others: list[dict[str, Any]],
        refine_steps: PositiveInt,
        refine_step_size: PositiveFloat | Literal["auto"] | None,
    ) -> None:
        self.points, self.resamples, self.levels, self.draws = points, resamples, levels, draws
        self.sigma, self.shift, self.others = sigma, shift, others
        self.refine_steps, self.refine_step_size = refine_steps, refine_step_size

    def __call__(self, view: EvalView) -> Report:
        report = Report()
        sets = sets_of(view, self.points, self.others, self.shift, report)
        level = self._typical_energy(view)
        noise, scores = view.generator.get_state(), {}
        for name, x in sets.items():
            view.generator.set_state(noise)  # the same noise for every set
            scores[name] = {k: v.detach().double().cpu() for k, v in self._scores(view, x, level).items()}
        real = scores.pop("held-out")
        pairs = {name: pairs_of(name, real, other, report) for name, other in scores.items()}
        for name in pairs:
            self._compare(report, name, pairs[name], view.generator)
            report.notes.append(verdict(report.metrics, name, list(pairs[name])))
        report.images["ood_roc"] = roc(report.metrics, pairs)
        shown = {name: images for name, x in sets.items() if (images := as_images(x, view.dataset)) is not None}
        if shown:
            bounds = shown["held-out"].bounds
            report.images["ood_sets"] = pictures.strips({name: each.pixels for name, each in shown.items()}, bounds)
        return report

    @torch.no_grad()
    def _typical_energy(self, view: EvalView) -> float | None:
        if not view.has("energy"):
            return None
        return float(in_parts(partial(evaluate, view.energy), subset(view.dataset.train, 10_000), 1024).mean())

    def _scores(self, view: EvalView, x: Tensor, level: float | None) -> dict[str, Tensor]:
        """Return the detection scores of x, (n,) each; the higher, the more like the data."""
        scores: dict[str, Tensor] = {}
        if level is not None:
            with torch.no_grad():
                e = in_parts(partial(evaluate, view.energy), x, 1024)
            scores |= {"energy": -e, "typicality": -(e - level).abs()}
        if "continuous" in features_of(view.dataset):
            slope = in_parts(partial(data_score, view.energy), x, 1024)
            scores["gradient"] = -flat_sum(slope**2).sqrt()
            if view.has("levels") or self.sigma is not None:
                scores["residual"] = -self._residual(view, x)
        if self.refine_step_size is not None and can_refine(view):
            scores["refined"] = self._refined(view, x)
        if view.has("labels"):
            scores |= certainty(view, x)
        truth = view.dataset.log_prob(x)
        if truth is not None:
            scores["truth"] = truth.clamp_min(IMPOSSIBLE)
        if view.dataset.bounds is not None:
            scores["intensity"] = x.flatten(1).mean(1)
        else:
            scores["distance"] = -flat_sum((x - view.dataset.mean) ** 2).sqrt()
        return scores | {"constant": torch.zeros(len(x)), "nearest": nearness(x, view.dataset.train)}

    def _refined(self, view: EvalView, x: Tensor) -> Tensor:
        size = self.refine_step_size
        eps = view.dataset.scale * (size if isinstance(size, int | float) else step_size(view))
        return in_parts(lambda part: energy_lost(view.energy, part, self.refine_steps, eps), x, 1024)

    def _residual(self, view: EvalView, x: Tensor) -> Tensor:
        if view.has("levels"):
            model = cast(NoiseLevels, view.energy)
            few = min(self.levels, model.ladder.levels)
            sigmas, score_at = [model.ladder.sigma((i + 0.5) / few) for i in range(few)], model.score
        else:
            sigmas = [float(self.sigma or 0) * view.dataset.scale]
            score_at = lambda y, _: data_score(view.energy, y)  # noqa: E731
        total = torch.zeros(len(x), device=x.device)
        for sigma in sigmas * self.draws:
            z = torch.empty(1, *x.shape[1:], device=x.device).normal_(generator=view.generator).expand_as(x)
            for rows in torch.arange(len(x), device=x.device).split(1024):
                y = x[rows] + sigma * z[rows]
                total[rows] += residual(score_at(y, sigma), z[rows], sigma) / (len(sigmas) * self.draws)
        return total

    def _compare(self, report: Report, name: str, scores: Pairs, generator: Generator) -> None:
        for score, (inside, outside) in scores.items():
            found = detection(inside, outside)
            bounds = None if score == "constant" else intervals(inside, outside, self.resamples, generator).tolist()
            for i, number in enumerate(("auroc", "aupr", "fpr95")):
                key = f"ood_{number}_{score}_{name}"
                report.metrics[key] = found[i]
                if bounds is not None:
                    report.metrics[f"{key}_low"], report.metrics[f"{key}_high"] = bounds[i]
