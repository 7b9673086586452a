"""Fisher divergence: the error of the model's score, if the true score is known.

    D_F(q) = 1/2 E_q |grad log p_model(x) - grad log p_data(x)|^2

in nats per squared data unit, under three laws q: that of held-out data (which score matching minimises), that of the
model's samples, and the uniform law on the box that contains the data. A small value under the data says nothing about
the weights of distant modes: grad log p depends on a mode's weight only between the modes, where there are hardly any
data. The box has points there, but also far from all data, where a model is unconstrained and scores are large: it
mostly measures regions without data. So if the modes are known, the error of their weights is reported too,
`fisher_mode_tv` of the density or, if there is none, `fisher_mode_tv_samples`.

For comparison D_F under data and box is also reported for two trivial models: `_zero`, whose score is 0 everywhere, and
`_gaussian`, with the training data's mean and covariance. Means over points are unbiased; `_se` are their standard
errors. A model of many levels is compared at its lowest level, whose blur is part of the divergence, as is the noise of
a model trained on noisy data.

Aapo Hyvarinen, Estimation of Non-Normalized Statistical Models by Score Matching, 2005, equation 2.
Blindness: Li Wenliang and Heishiro Kanagawa, Blindness of Score-based Methods to Isolated Components and Mixing
Proportions, 2020, arXiv:2008.10087.
"""

import itertools
from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, frozen
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.elementary import UniformBox
from ebm_lab.distributions.mixture import mixture_of
from ebm_lab.evaluation.modes import total_variation, weights_of_density, weights_of_samples
from ebm_lab.models.levels import data_score


def fisher_divergence(s_model: Tensor, s_data: Tensor) -> Tensor:
    """Return 1/2 |s_model - s_data|^2, (B,), of scores (B, *shape); its mean is D_F under the law of the points."""
    return 0.5 * flat_sum((s_model - s_data) ** 2)


@register("evaluation", "fisher")
class Fisher(Evaluation):
    """Compare the model's score with the true one.

    `points`: most points of each law. `cells`: cells of the quadrature for the modes' weights, as in
    evaluation.likelihood.
    """

    metrics = (Metric("fisher_*"),)
    needs = (Need("dataset", "continuous", why="discrete data have no density, and so no score to compare with"),)

    def __init__(self, *, points: PositiveInt, cells: PositiveInt) -> None:
        self.points, self.cells = points, cells

    def applies(self, view: EvalView) -> str | None:
        if view.dataset.log_prob(view.held_out[:1]) is None:
            return "the data's true density is not known, and so not its score"
        return "the data's true density has no gradient" if view.dataset.score(view.held_out[:1]) is None else None

    def __call__(self, view: EvalView) -> Report:
        x = subset(view.held_out, self.points)
        box = UniformBox(view.held_out.amin(0), view.held_out.amax(0))
        laws = {"data": x, "box": box.sample(len(x), view.generator)}
        if view.sampler is not None:
            laws["samples"] = view.samples[: self.points]

        def model(y: Tensor) -> Tensor:
            with frozen(view.energy):
                return data_score(view.energy, y)

        metrics: dict[str, float] = {}
        for law, points in laws.items():
            values = self._values(view, model, points)
            spread = float(values.std(correction=0)) / len(values) ** 0.5
            metrics |= {f"fisher_{law}": float(values.mean()), f"fisher_{law}_se": spread}
        gaussian = gaussian_score(view.dataset.train)
        trivial = {"zero": torch.zeros_like} | ({} if gaussian is None else {"gaussian": gaussian})
        for law, (name, other) in itertools.product(("data", "box"), trivial.items()):
            metrics[f"fisher_{law}_{name}"] = float(self._values(view, other, laws[law]).mean())
        notes = [
            "fisher_data is blind to the weights of distant modes; fisher_box mostly measures regions without data"
        ]
        return Report(metrics | self._weights(view), notes=notes)

    def _values(self, view: EvalView, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        parts = []
        for part in x.split(500):
            truth = view.dataset.score(part)
            assert truth is not None, "applies() asks for it"
            parts.append(fisher_divergence(model(part), truth).double())
        return torch.cat(parts)

    def _weights(self, view: EvalView) -> dict[str, float]:
        """Return the total variation between the modes' weights in the model and in the data."""
        mixture = mixture_of(view.dataset)
        if mixture is None:
            return {}
        found = weights_of_density(view, mixture, self.cells)
        if found is not None:
            return {"fisher_mode_tv": total_variation(found, mixture.odds)}
        if view.sampler is None:
            return {}
        return {"fisher_mode_tv_samples": total_variation(weights_of_samples(mixture, view.samples), mixture.odds)}


def gaussian_score(train: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return the score -S^-1 (x - m) of the Gaussian with mean m and covariance S of train (n, *shape).

    Returns None if S is singular, since there is no density then.
    """
    flat = train.flatten(1).double()
    mean, covariance = flat.mean(0), flat.T.cov(correction=0).view(flat.shape[1], -1)
    if int(torch.linalg.matrix_rank(covariance, hermitian=True)) < len(covariance):
        return None
    return lambda x: -torch.linalg.solve(covariance, (x.flatten(1) - mean).T).T.view(x.shape)
