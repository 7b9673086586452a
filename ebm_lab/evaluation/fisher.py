"""Fisher divergence: how wrong the model's score is, where the true one is known.

    D_F(q) = 1/2 E_q |grad log p_model(x) - grad log p_data(x)|^2

in nats per squared data unit, under three laws q: of held-out data (what score matching minimises), of the model's own
samples, and uniform on the box that holds the data. A small value under the data says nothing about how heavy each of
several distant modes is: grad log p does not change when a mode's weight does, except between the modes, where data are
hardly ever. The box has points there, and far from all data too, where a model is free and scores are large: it shows
what the data do not ask about, weights among much else. So the error of the modes' weights stands beside it where the
modes are known, `fisher_mode_tv` of the density or, for want of one, `fisher_mode_tv_samples`.

Beside D_F under data and box stand two trivial models': `_zero`, whose score is 0 everywhere, and `_gaussian`, with the
training data's mean and covariance. Means over points are unbiased; `_se` are their standard errors. A model of many
levels is compared at its lowest, and differs from the data by that much blur; so does one trained with noise on the
data.

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
from ebm_lab.core.functional import flat_sum, frozen
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.elementary import UniformBox
from ebm_lab.distributions.mixture import mixture_of
from ebm_lab.evaluation.modes import total_variation, weights_of_density, weights_of_samples
from ebm_lab.models.levels import data_score


def fisher_divergence(s_model: Tensor, s_data: Tensor) -> Tensor:
    """1/2 |s_model - s_data|^2 of scores (B, *shape) at the same points, (B,); its mean is D_F under their law."""
    return 0.5 * flat_sum((s_model - s_data) ** 2)


@register("evaluation", "fisher")
class Fisher(Evaluation):
    """`points`: how many of each law at most; `cells`: of the quadrature for the modes' weights, as in
    evaluation.likelihood."""

    metrics = (Metric("fisher_*"),)

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
        """Total variation between the modes' weights in the model and in the data."""
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
    """The score -S^-1 (x - m) of the Gaussian with the mean and the covariance of train (n, *shape); None where that is
    singular, so that there is no density."""
    flat = train.flatten(1).double()
    mean, covariance = flat.mean(0), flat.T.cov(correction=0).view(flat.shape[1], -1)
    if int(torch.linalg.matrix_rank(covariance, hermitian=True)) < len(covariance):
        return None
    return lambda x: -torch.linalg.solve(covariance, (x.flatten(1) - mean).T).T.view(x.shape)
