"""Out-of-distribution detection: does the model distinguish held-out data from other sets?

Each detection score is higher the more x looks like the data:

    energy        -E(x)
    gradient      -|grad_x log p(x)|, which is near 0 at the modes of p
    typicality    -|E(x) - mean E over the training data|
    residual      -mean over levels and draws of |sigma s(x + sigma z, sigma) + z|^2 / d: the error of denoising x; for
                  models of many levels, and for a plain energy if `sigma` is given
    truth         log p_data(x), if it is known: the ceiling

They are compared with trivial baselines:

    intensity     the mean pixel; for points instead distance, -|x - mean of the training data|
    constant      the same for all points: AUROC 0.5, FPR95 1

Held-out data are the positives. `ood_auroc_<score>_<set>` is the probability that a held-out point scores higher than a
point of the other set, `ood_aupr_..` the average precision (0.5 for a constant), `ood_fpr95_..` the share of the other
set above the threshold that 95 % of the held-out data pass (statistics/detection.py). `.._low` and `.._high` bound the
95 % bootstrap interval over the points, for this one model; another seed can lie outside. The sign of intensity is
chosen for each set such that its AUROC is at least 0.5, which no detector could know: it is the best that this number
can do. Typical data need not have the highest likelihood, so a model can be worse than this baseline.

The sets are `outside` (classes that the splits leave out), other data sets (`others`) of the same shape if they are
found, uniform noise and interpolations (means of two held-out images); for points a uniform box and shifted data.

Eric Nalisnick et al., Do Deep Generative Models Know What They Don't Know?, 2019, arXiv:1810.09136. Eric Nalisnick et
al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, 2019, arXiv:1906.02994. Will
Grathwohl et al., Your Classifier is Secretly an Energy Based Model, 2020, section 5.3, arXiv:1912.03263 (gradient).
"""

from functools import partial
from typing import Any, cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core import pictures
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.functional import evaluate, flat_sum, in_parts, per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import row_order, subset
from ebm_lab.core.registry import build, find, register
from ebm_lab.distributions.elementary import UniformBox
from ebm_lab.distributions.start import start_law
from ebm_lab.models.levels import NoiseLevels, data_score
from ebm_lab.statistics.detection import detection, intervals, labelled

TRIVIAL = ("intensity", "distance", "constant")
COLOURS = {
    "energy": "#1f5fa8",
    "gradient": "#d95f02",
    "typicality": "#1b9e77",
    "residual": "#8e5ea2",
    "truth": "#c9a400",
}
Pairs = dict[str, tuple[Tensor, Tensor]]
"""By name of the detection score, its values for held-out points and for the other set."""


def residual(s: Tensor, z: Tensor, sigma: float) -> Tensor:
    """Return |sigma s + z|^2 / d, (B,), for the score s at x + sigma z; its mean is 1 if s is 0 everywhere."""
    return flat_sum((sigma * s + z) ** 2) / z[0].numel()


@register("evaluation", "ood")
class OutOfDistribution(Evaluation):
    """Distinguish held-out data from other sets by the model's scores.

    `points`: most points of each set. `resamples`: resamples of the bootstrap. `levels`, `draws`: noise levels, and
    noise vectors per level, over which the residual is averaged. `sigma`: noise level of a plain energy's residual, in
    units of the data's scale; null leaves the residual out. `shift`: distance of shifted points, in the same unit.
    `others`: other data sets by their settings; those that are not found are left out.
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
    ) -> None:
        self.points, self.resamples, self.levels, self.draws = points, resamples, levels, draws
        self.sigma, self.shift, self.others = sigma, shift, others

    def __call__(self, view: EvalView) -> Report:
        report = Report()
        sets = self._sets(view, report)
        level = self._typical_energy(view)
        noise, scores = view.generator.get_state(), {}
        for name, x in sets.items():
            view.generator.set_state(noise)  # the same noise for every set
            scores[name] = {k: v.detach().double().cpu() for k, v in self._scores(view, x, level).items()}
        real = scores.pop("held-out")
        pairs = {name: {k: pair(k, real[k], other[k]) for k in other} for name, other in scores.items()}
        for name in pairs:
            self._compare(report, name, pairs[name], view.generator)
            report.notes.append(verdict(report.metrics, name, list(pairs[name])))
        report.images["ood_roc"] = self._draw(report.metrics, pairs)
        bounds = view.dataset.bounds
        if bounds is not None:
            report.images["ood_sets"] = pictures.strips(sets, bounds)
        return report

    def _sets(self, view: EvalView, report: Report) -> dict[str, Tensor]:
        """Return the held-out points first, then the sets that are not of the data's law."""
        data, g = view.dataset, view.generator
        x = subset(view.held_out, self.points)
        sets = {"held-out": x}
        if data.outside is not None:
            sets["outside"] = subset(data.outside, self.points)
        if data.bounds is not None:
            sets |= self._others(data, report)
            sets["uniform"] = start_law(data).sample(len(x), g)
            mixed = x[row_order(len(x)).to(x.device)]  # shuffled, since neighbouring rows may be of one class
            sets["interpolation"] = (mixed + mixed.roll(1, 0)) / 2
        else:
            low, high = data.train.amin(0), data.train.amax(0)
            sets["uniform"] = UniformBox(low - (high - low) / 4, high + (high - low) / 4).sample(len(x), g)
            direction = torch.empty_like(x).normal_(generator=g)
            norm = per_sample(flat_sum(direction**2).sqrt(), x)
            sets["shifted"] = x + self.shift * data.scale * direction / norm
        return sets

    def _others(self, own: Dataset, report: Report) -> dict[str, Tensor]:
        found = {}
        for settings in self.others:
            name = str(settings.get("name"))
            if settings.get("root", "") is None:
                report.notes.append(
                    f"ood: {name} is left out: the run's data have no folder, dataset.root, to find it in"
                )
                continue
            if type(own) is find("dataset", name):
                continue
            try:
                other: Dataset = build("dataset", settings, f"evaluation.ood.others.{name}")
            except UserError as error:
                report.notes.append(f"ood: {name} is left out: {str(error).splitlines()[0]}")
                continue
            if other.event_shape != own.event_shape:
                report.notes.append(f"ood: {name} is left out: its images are {other.event_shape}")
                continue
            found[name] = subset(other.test, self.points).to(own.train)
        return found

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
        slope = in_parts(partial(data_score, view.energy), x, 1024)
        scores["gradient"] = -flat_sum(slope**2).sqrt()
        if view.has("levels") or self.sigma is not None:
            scores["residual"] = -self._residual(view, x)
        truth = view.dataset.log_prob(x)
        if truth is not None:
            scores["truth"] = truth
        if view.dataset.bounds is not None:
            scores["intensity"] = x.flatten(1).mean(1)
        else:
            scores["distance"] = -flat_sum((x - view.dataset.mean) ** 2).sqrt()
        return scores | {"constant": torch.zeros(len(x))}

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

    def _draw(self, metrics: dict[str, float], pairs: dict[str, Pairs]) -> Tensor:
        from sklearn.metrics import roc_curve

        def draw(fig) -> None:
            for axes, (name, scores) in zip(fig.subplots(1, len(pairs), squeeze=False)[0], pairs.items(), strict=True):
                for score, (inside, outside) in scores.items():
                    fpr, tpr, _ = roc_curve(*labelled(inside, outside))
                    plain = {"lw": 1.2, "ls": "--", "color": "0.6" if score == "constant" else "black"}
                    style = plain if score in TRIVIAL else {"lw": 1.8, "color": COLOURS[score]}
                    key = f"ood_auroc_{score}_{name}"
                    low, high = (metrics.get(f"{key}_{end}") for end in ("low", "high"))
                    range_ = "" if low is None else f" [{low:.3f}, {high:.3f}]"
                    axes.plot(fpr, tpr, label=f"{score} {metrics[key]:.3f}{range_}", **style)
                axes.axhline(0.95, color="0.8", lw=0.8, ls=":")
                axes.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
                axes.set(xlabel=f"share of '{name}' that passes", ylabel="share of held-out data that passes")
                axes.set_title(f"{len(inside):,} held-out, {len(outside):,} {name}")
                below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
                axes.legend(frameon=False, fontsize=9, title="AUROC [95 % interval]", **below)

        return pictures.figure(draw, 4.3 * len(pairs), 5.6 + 0.22 * max(map(len, pairs.values())))


def pair(score: str, real: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both unchanged, but intensity with the sign for which its AUROC is at least one half."""
    return (-real, -other) if score == "intensity" and detection(real, other)[0] < 0.5 else (real, other)


def verdict(metrics: dict[str, float], name: str, scores: list[str]) -> str:
    """Return one line that compares the best of the model's scores with the best trivial one."""

    def best(some: list[str]) -> tuple[float, str]:
        return max((metrics[f"ood_auroc_{s}_{name}"], s) for s in some)

    trivial, own = best([s for s in scores if s in TRIVIAL]), best([s for s in scores if s not in (*TRIVIAL, "truth")])
    if trivial[0] >= own[0]:
        says = "beats the model" if trivial[0] > own[0] else "does as well as the model"
        return (
            f"ood, {name}: a trivial baseline {says}: AUROC {trivial[0]:.3f} of {trivial[1]}, {own[0]:.3f} of {own[1]}"
        )
    return (
        f"ood, {name}: best of the model's scores is {own[1]}, AUROC {own[0]:.3f}; {trivial[1]} alone {trivial[0]:.3f}"
    )
