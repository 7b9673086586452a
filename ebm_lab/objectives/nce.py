"""Noise-contrastive estimation: classify data and noise by the model's own density, with a learnt log Z.

    h(x) = log p_theta(x) - log p_n(x) - log k,    log p_theta = -E(x) - c
    L = E_p[ softplus(-h(x)) ] + k E_{p_n}[ softplus(h(x)) ]

with k noise samples per datum (`noise_ratio` = noise / data; the tutorial's nu is its inverse). At the optimum
E + c = -log p for any noise that covers the data, so c is log Z. As k grows the gradient tends to the likelihood's,
with an error of O(1 / k); the closer the noise is to the data, the less k matters. Noise narrower than the data fails.
If the energy has a base, E = -log base + f, the noise is by default that base, and h = -f - c - log k.

`loss` takes any of the Bregman family of losses in its place, for log r = -E - c - log p_n, with means over the noise:

    L = E_p[ A(log r) ] + E_{p_n}[ B(log r) ]

                    A              B              value at the optimum
    logistic        as above                      2 log 2 - 2 JS(p, p_n) for k = 1
    exponential     r^-1/2         r^1/2          2 int sqrt(p p_n)
    mc_mle          -log r         r              1 - KL(p || p_n)
    lsif            -r             r^2 / 2        -(1 + chi^2(p || p_n)) / 2
    inverse_kl      1 / r          log r          1 - KL(p_n || p)

All have their minimum at r = p / p_n, c = log Z, and differ in what they cost elsewhere. `exponential` (eNCE) is better
conditioned where the noise is far from the data: for p = N(4, 1), p_n = N(0, 1) and the statistics (x, 1) the condition
number of the Hessian at the optimum is 34, where that of `logistic` is 87. `mc_mle` is maximum likelihood with a Z
estimated by importance sampling, in the unbiased form with a learnt c, the self-normalised likelihood: minimised in c,
L is the negative log-likelihood up to a constant. `lsif` and `mc_mle` need noise with heavier tails than the model,
`inverse_kl` the opposite. Exponentials continue linearly beyond exp(CAP), so that no point's gradient vanishes or
overflows; the metric `capped` is the share of such points.

Michael U. Gutmann and Aapo Hyvarinen, Noise-Contrastive Estimation of Unnormalized Statistical Models, 2012, eq. 8.
Michael U. Gutmann and Jun-ichiro Hirayama, Bregman Divergence as General Framework to Estimate Unnormalized Statistical
Models, 2011, arXiv:1202.3727 (the family). Bingbin Liu, Elan Rosenfeld, Pradeep Ravikumar and Andrej Risteski,
Analyzing and Improving the Optimization Landscape of Noise-Contrastive Estimation, 2021, arXiv:2110.11271
(exponential). Masashi Sugiyama, Taiji Suzuki and Takafumi Kanamori, Density Ratio Estimation in Machine Learning, 2012
(lsif). Charles J. Geyer, On the Convergence of Monte Carlo Maximum Likelihood Calculations, 1994 (mc_mle).
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, section 5, arXiv:2101.03288.
"""

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn, stacked
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.elementary import Distribution
from ebm_lab.distributions.flow import Flow
from ebm_lab.distributions.noise import NoiseLaw, fit_noise
from ebm_lab.distributions.product import product_law
from ebm_lab.objectives._data_noise import refuse_noise
from ebm_lab.objectives._log_z import log_z_under

BregmanLoss = Literal["logistic", "exponential", "mc_mle", "lsif", "inverse_kl"]
CAP = 15.0
"""The exponent beyond which exp continues linearly."""


def capped_exp(t: Tensor) -> Tensor:
    """Compute exp(t), continued linearly, with its slope at CAP, for t > CAP."""
    low = t.clamp_max(CAP)
    return low.exp() * (1 + t - low)


BREGMAN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exponential": (lambda h: capped_exp(-h / 2), lambda h: capped_exp(h / 2)),
    "mc_mle": (lambda h: -h, capped_exp),
    "lsif": (lambda h: -capped_exp(h), lambda h: 0.5 * capped_exp(2 * h)),
    "inverse_kl": (lambda h: capped_exp(-h), lambda h: h),
}
"""A and B of each loss as functions of h = log r, beside the logistic one, which has k in its h."""
EXPONENTS = {"exponential": (-0.5, 0.5), "mc_mle": (0.0, 1.0), "lsif": (1.0, 2.0), "inverse_kl": (-1.0, 0.0)}
"""The powers of r in A and B."""


def log_ratio(energy: EnergyFn, log_z: Tensor, x: Tensor, x_noise: Tensor, noise: Distribution) -> Tensor:
    """Return log r = -E - c - log p_n of the data and of the noise, ((k + 1) B,)."""
    both = torch.cat([x, x_noise])
    return -torch.cat(stacked(energy, x, x_noise)) - log_z - noise.log_prob(both)


def noise_contrastive_estimation(
    energy: EnergyFn, log_z: Tensor, x: Tensor, x_noise: Tensor, noise: Distribution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss per datum (B,), h of the data (B,), h of the noise (k B,)) for x (B, *shape), x_noise (k B, *shape).

    The noise's term is averaged over the k samples of each datum and multiplied by k, so that the mean is L.
    """
    k = len(x_noise) // len(x)
    h = log_ratio(energy, log_z, x, x_noise, noise) - math.log(k)
    h_data, h_noise = h[: len(x)], h[len(x) :]
    return softplus(-h_data) + softplus(h_noise).view(k, len(x)).sum(0), h_data, h_noise


def bregman_ratio_estimation(
    energy: EnergyFn, log_z: Tensor, x: Tensor, x_noise: Tensor, noise: Distribution, loss: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss per datum (B,), log r of the data (B,), log r of the noise (k B,)), as above, for a `loss` of
    BREGMAN. The noise's term is averaged over the k samples of each datum."""
    h = log_ratio(energy, log_z, x, x_noise, noise)
    h_data, h_noise = h[: len(x)], h[len(x) :]
    of_data, of_noise = BREGMAN[loss]
    return of_data(h_data) + of_noise(h_noise).view(-1, len(x)).mean(0), h_data, h_noise


@register("objective", "nce")
class NCE(Objective):
    """Classify data against noise that is fitted to the training data.

    `noise`: gaussian (full covariance), mixture (of `components` such Gaussians, fitted by EM), uniform (the data's
    range with a margin), flow (a normalising flow, fitted by maximum likelihood in some seconds at the start), base
    (the law that the energy builds on), bernoulli (of discrete data: independent sites with the data's frequencies) or
    auto, which is the base if the energy has one, else gaussian or bernoulli.
    `widen`: factor of the noise's std, 1 for the fitted one. `noise_ratio`: k. `data_noise`: std of Gaussian noise
    added to the data, in units of the data's scale. `loss`: logistic, or another of the Bregman family.
    """

    headline = ("loss", "accuracy", "log_z")
    validates = True
    needs_float32 = "classifies data and noise by energies minus log-densities"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        noise: NoiseLaw | Literal["auto", "base", "bernoulli"],
        components: PositiveInt,
        widen: PositiveFloat,
        noise_ratio: PositiveInt,
        data_noise: NonNegativeFloat,
        loss: BregmanLoss,
    ) -> None:
        super().__init__(energy)
        self.generator, self.k, self.loss = generator, noise_ratio, loss
        self.data_noise = data_noise * dataset.scale
        refuse_noise(dataset, data_noise)
        if noise == "auto":
            own = "gaussian" if dataset.space == "continuous" else "bernoulli"
            noise = own if base_of(energy) is None else "base"  # type: ignore[assignment]
            self.resolved["noise"] = noise  # type: ignore
        if noise == "base":
            self.noise: Distribution = self._base(widen)
        else:
            self.noise = self._fitted(noise, dataset, components, widen)
        if noise == "flow":
            self.notes.append(cast(Flow, self.noise).told)
        self.log_z = nn.Parameter(log_z_under(energy, self.noise, generator))

    def _base(self, widen: float) -> Distribution:
        """Return the energy's base, blurred by what noise is added to the data."""
        base = base_of(self.energy)
        if base is None:
            raise UserError("objective.noise=base: the energy has no base; choose energy.base=gaussian, say")
        if widen != 1:
            raise UserError(f"objective.widen={widen:g}: must be 1 where the noise is the energy's base")
        return base.blurred(self.data_noise) if self.data_noise else base

    def _fitted(self, noise: str, dataset: Dataset, components: int, widen: float) -> Distribution:
        """Return a noise law fitted to the training data; for discrete data, independent sites."""
        if (noise == "bernoulli") != (dataset.space != "continuous"):
            fits = "gaussian, mixture, uniform or flow" if noise == "bernoulli" else "bernoulli or base"
            raise UserError(f"objective.noise={noise}: the data are {dataset.space}; choose {fits}")
        if noise != "bernoulli":
            return fit_noise(noise, dataset.train, components, widen, self.data_noise, self.generator)  # type: ignore
        if widen != 1:
            raise UserError(f"objective.widen={widen:g}: must be 1 for objective.noise=bernoulli")
        return product_law(dataset)

    def learnt_log_z(self) -> Tensor:
        return self.log_z

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        x_noise = self.noise.sample(self.k * len(x), self.generator)
        terms = (self.energy, self.log_z, x, x_noise, self.noise)
        if self.loss == "logistic":
            values, h_data, h_noise = noise_contrastive_estimation(*terms)
        else:
            values, h_data, h_noise = bregman_ratio_estimation(*terms, self.loss)
        loss = values.mean()
        accuracy = 0.5 * ((h_data > 0).float().mean() + (h_noise < 0).float().mean())
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "log_z": self.log_z.detach().clone()}
        if self.loss != "logistic":
            powers = zip(EXPONENTS[self.loss], (h_data, h_noise), strict=True)
            metrics["capped"] = torch.cat([a * h.detach() > CAP for a, h in powers]).float().mean()
        return Loss(loss, metrics, grad_evals=len(x) * (1 + self.k))
