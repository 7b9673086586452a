"""What stands beside a held-out likelihood: trivial models of the same points, and the part of the gap that is blur.

    nll_above_<law> = nll - nll_<law> = E_test[ log law(x) - log q(x) ],    law: gaussian, mixture (baselines.py), base

so that above 0 the model q is worse. Its standard error is that of the paired differences, with that of log Z. The
base is the energy's own, E = -log base + f: the model before training. Reported on the test points alone, for these
numbers stay what they are while a model trains. Discrete data have no Gaussians beside them but independent sites, with
the frequencies of the training points:  log law(x) = sum_i log p_i(x_i).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.metrics import Metric
from ebm_lab.distributions.base import BaseLaw, base_of
from ebm_lab.distributions.baselines import fitted_gaussian, fitted_mixture, log_prob_of
from ebm_lab.distributions.blurred import blur_gap
from ebm_lab.distributions.product import ProductBase

LAWS = {
    "gaussian": "a fitted Gaussian",
    "mixture": "a fitted mixture",
    "independent": "independent sites",
    "base": "its own base",
}
BASELINES = (
    Metric(
        "nll_gaussian",
        "nll of a fitted Gaussian",
        "nats",
        meaning="mean negative log-likelihood of the same held-out points under a Gaussian fitted to the training "
        "points: a model above it has learnt less than mean and covariance.",
        shown=("report",),
        rank=31,
    ),
    Metric(
        "nll_mixture",
        "nll of a fitted mixture",
        "nats",
        meaning="the same under a mixture of up to 32 Gaussians, fitted by EM and chosen by the validation points.",
        shown=("report",),
        rank=32,
    ),
    Metric(
        "nll_independent",
        "nll of independent sites",
        "nats",
        meaning="for discrete data, the same under independent sites with the frequencies of the training points: a "
        "model above it has learnt less than how often each value occurs.",
        shown=("report",),
        rank=33,
    ),
    Metric(
        "nll_base",
        "nll of the model's base",
        "nats",
        meaning="the same under the base that the energy corrects: the model before training.",
        shown=("report",),
        rank=34,
    ),
    *(
        Metric(
            f"{prefix}nll_above_{law}",
            f"nll above that of {name}",
            "nats",
            "lower",
            f"held-out nll minus that of {name} on the same points: above 0 the model is worse.",
        )
        for prefix in ("", "ais_")
        for law, name in LAWS.items()
    ),
    *(Metric(f"{prefix}nll_above_{law}_se", unit="nats") for prefix in ("", "ais_") for law in LAWS),
)


@dataclass(frozen=True)
class Likelihoods:
    """-log q(x) of a model at the held-out points, (n,) in float64, and the standard error of its log Z."""

    nll: Tensor
    se: float

    def above(self, nll: Tensor) -> tuple[float, float]:
        """How far the model's mean nll is above that of another law, (n,), and the paired standard error."""
        difference = self.nll.cpu() - nll.cpu()
        return float(difference.mean()), math.hypot(spread(difference), self.se)


def spread(values: Tensor) -> float:
    """Standard error of the mean of values (n,); 0 for a single one."""
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0


def beside(view: EvalView, model: Likelihoods, prefix: str = "") -> dict[str, float]:
    """The metrics above, as far as these data and this energy have such laws; `prefix`: of the comparisons' names."""
    if view.split != "test":
        return {}
    data = view.dataset
    laws = {"gaussian": fitted_gaussian(data), "mixture": fitted_mixture(data), "independent": independent(data)}
    metrics = {}
    for name, law in laws.items():
        if law is not None:
            metrics |= _compared(name, model, -log_prob_of(law, view.held_out), prefix)
    base = base_of(view.energy)
    if base is not None:
        metrics |= _compared("base", model, -base.log_prob(view.held_out).detach().double(), prefix)
    return metrics


def independent(dataset: Dataset) -> BaseLaw | None:
    """Return independent sites with the training data's frequencies, in float64 on the CPU, each with one more point
    that has every value; None for real numbers."""
    sites = known_sites(dataset)
    if sites is None:
        return None
    n, k = len(dataset.train), sites.categories
    p = (dataset.train.double().mean(0).cpu() * n + 1) / (n + k)
    return BaseLaw(ProductBase(p.log() if sites.one_hot else p.logit(), sites.one_hot))


def true_nll(view: EvalView) -> Tensor | None:
    """-log p of the data's law at the held-out points, (n,) in float64, where it is known."""
    log_p = view.dataset.log_prob(view.held_out)
    return None if log_p is None else -log_p.double()


def gap_to_truth(
    view: EvalView, nll: float, model: Likelihoods, true: Tensor, notes: list[str], prefix: str = ""
) -> dict[str, float]:
    """The truth's own nll, the model's gap to it with its paired standard error, and on the test points the part of the
    gap that a perfect model of the blurred law has too, where the objective learns such a law."""
    name, mean = f"{prefix}nll_gap", float(true.mean())
    metrics = {f"{prefix}nll_true": mean, name: nll - mean, f"{name}_se": model.above(true)[1]}
    if view.split != "test" or not view.blur:
        return metrics
    cost = blur_gap(view.dataset, view.held_out, view.blur, view.generator)
    if cost is None:
        return metrics
    told = f"{cost.nats:.2g} nats of {name} are the blur of sigma={view.blur:.3g}"
    notes.append(f"{told}: a perfect model at this sigma would have them too")
    return metrics | {f"{name}_blur": cost.nats, f"{name}_blur_se": cost.se}


def _compared(name: str, model: Likelihoods, nll: Tensor, prefix: str) -> dict[str, float]:
    above, se = model.above(nll)
    found = {f"nll_{name}": float(nll.mean())}
    return found | {f"{prefix}nll_above_{name}": above, f"{prefix}nll_above_{name}_se": se}
