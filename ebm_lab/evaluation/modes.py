"""The modes found and their weights, for data that are a mixture of Gaussians with known components, and for bits that
are known patterns with some bits flipped (_patterns.py).

    w_k = E_q[ r_k(x) ],    r_k the odds that the data's law gives component k at x

q is the law of the samples or, in one and two dimensions, the model's density, by quadrature. If q is the data's law,
the w_k are exactly the true weights, even if modes overlap; if modes are far apart, w_k is the share of points near
mode k. They are compared with the true weights by KL(w || w_true) in nats and by total variation,
1/2 sum |w_k - w_true,k|.

With n points both are above 0 for a perfect model too, KL by about (modes - 1) / 2n: `_real`, from as many training
points, is this floor. The density's weights have no such noise; they show what the model has learnt, the samples'
weights what its chains find. `modes_hit` is the share of modes with at least one sample within 3 of their stds,
`modes_quality` the share of samples within 3 stds of any mode.

Zinan Lin et al., PacGAN: The power of two samples in generative adversarial networks, 2018, section 4.1 (modes and
high-quality samples), arXiv:1712.04086.
"""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.eval_view import Evaluation, EvalView, Report
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.distributions.cubature import Cubature, NoIntegral
from ebm_lab.distributions.mixture import GaussianMixture, mixture_of
from ebm_lab.distributions.quadrature import budget
from ebm_lab.evaluation._extras import patterns
from ebm_lab.evaluation._patterns import report_patterns, without
from ebm_lab.evaluation._shares import kl, total_variation


def weights_of_samples(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Return the mean of r_k over x (n, *shape), (K,)."""
    return mixture.responsibilities(x.cpu().double()).mean(0)


def quadrature_weights(energy: EnergyFn, mixture: GaussianMixture, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Return the mean of r_k under exp(-E) / Z in 1 or 2 dimensions, (K,).

    The search for the model's mass begins at the box [low, high] and the modes. The result is nan if exp(-E) has no
    finite integral.
    """
    about = torch.cat([torch.stack([low, high]), mixture.middles.to(low)])
    try:
        nodes, log_weights = Cubature(energy, about, budget(cells)).law()
    except NoIntegral:
        return torch.full_like(mixture.odds, torch.nan)
    return log_weights.exp().cpu() @ mixture.responsibilities(nodes.cpu().double())


def weights_of_density(view: EvalView, mixture: GaussianMixture, cells: int) -> Tensor | None:
    """Return the weights of the model's density, (K,); None if it cannot be integrated in its dimension."""
    if not view.has("energy") or view.dataset.event_shape not in ((1,), (2,)):
        return None
    low, high = view.dataset.train.amin(0), view.dataset.train.amax(0)
    return quadrature_weights(view.energy, mixture, low, high, cells)


@register("evaluation", "modes")
class Modes(Evaluation):
    """Count the modes that samples find, and compare the modes' weights with the true ones.

    `radius`: a sample within this number of a mode's stds hits it. `cells`: cells of the quadrature, as in
    evaluation.likelihood. Neither has a meaning for patterns of bits.
    """

    metrics = (
        Metric("modes"),
        Metric("modes_found", meaning="the number of patterns that some sample equals, of `modes`."),
        Metric("modes_exact", good="higher", meaning="the share of samples, of 1, that are patterns."),
        Metric("modes_*"),
    )

    def __init__(self, *, radius: PositiveFloat, cells: PositiveInt) -> None:
        self.radius, self.cells = radius, cells

    def applies(self, view: EvalView) -> str | None:
        if patterns(view.dataset) is not None:
            return without(view)
        if mixture_of(view.dataset) is None:
            return "the data are no mixture with known modes"
        if view.sampler is None and (not view.has("energy") or view.dataset.event_shape not in ((1,), (2,))):
            return "the run has no sampler, and no density in one or two dimensions"
        return None

    def __call__(self, view: EvalView) -> Report:
        if (found := patterns(view.dataset)) is not None:
            return report_patterns(view, found)
        mixture, report = mixture_of(view.dataset), Report()
        assert mixture is not None, "applies() asks for it"
        if view.sampler is not None:
            report.metrics |= self._of_points(mixture, view.samples, "")
            report.metrics |= self._of_points(mixture, subset(view.dataset.train, view.count), "_real")
            report.notes = ["modes_kl and modes_tv from few samples are biased upwards, by about modes_*_real"]
        found = weights_of_density(view, mixture, self.cells)
        if found is not None:
            report.metrics["modes_density_kl"] = kl(found, mixture.odds)
            report.metrics["modes_density_tv"] = total_variation(found, mixture.odds)
        report.metrics["modes"] = float(len(mixture.weights))
        return report

    def _of_points(self, mixture: GaussianMixture, x: Tensor, suffix: str) -> dict[str, float]:
        near = mixture.distances(x.cpu().double()) <= self.radius
        w = weights_of_samples(mixture, x)
        values = {
            "hit": float(near.any(0).double().mean()),
            "quality": float(near.any(1).double().mean()),
            "kl": kl(w, mixture.odds),
            "tv": total_variation(w, mixture.odds),
        }
        return {f"modes_{name}{suffix}": value for name, value in values.items()}
