"""Telescoping density-ratio estimation: a bridge of noise levels between the data and noise, one classifier per bridge.

    log p_0 / p_m = sum_k log p_k / p_{k+1},    k = 0 ... m - 1
    p_k = p * N(0, sigma_k^2 I) for k < m,  sigma_0 < ... < sigma_{m-1} the model's ladder;    p_m: the model's prior
    L = 1/m sum_k E_{p_k}[ softplus(-h_k) ] + E_{p_{k+1}}[ softplus(h_k) ],    h_k = log p_k - log p_{k+1}

with log p_k(x) = -E(x, sigma_k) and log p_m the prior's own. A classifier that tells data from far noise at a glance
learns little of their ratio; each of many small steps is hard, so that all are learnt, and their errors add. For
p_0 = N(0, 1e-6) and p_m = N(0, 1) the loss at the optimum, 2 log 2 for equal laws, is .017 for one bridge and 1.124
for eight; above .7 or so a bridge is short enough (setting `energy.levels`).

The energy of many noise levels is the network with a head for each bridge: its sum of log-ratios from level k to the
prior is -E(x, sigma_k) - log prior(x), so every level is a normalised log-density with log Z = 0, its own Z learnt by
its bridges, and E(x, sigma_0) is that of the data blurred by sigma_0. Unlike scores, the ratios see the weights of
distant modes. Both points of a pair are made from one datum and one noise, which cancels most of the gradient's noise.

Benjamin Rhodes, Kai Xu and Michael U. Gutmann, Telescoping Density-Ratio Estimation, 2020, equations 3 to 6,
arXiv:2006.12204 (there with convex combinations of data and noise).
"""

from typing import cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ebm_lab.core.features import Need
from ebm_lab.core.functional import evaluate, per_sample
from ebm_lab.core.interfaces import Batch, Distribution, Loss, Objective
from ebm_lab.core.model import Model
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseEnergy


def telescoping_ratio_estimation(
    model: Model, x: Tensor, x_up: Tensor, sigma: Tensor, sigma_up: Tensor, prior: Distribution
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, h(x), h(x_up)), (B,) each, for x from the law at sigma and x_up from that at sigma_up, (B, *shape),
    with h = log p_sigma - log p_sigma_up. Where sigma_up is infinite, the upper law is the prior."""
    top = sigma_up.isinf()
    levels, both = torch.where(top, sigma, sigma_up), torch.cat([x, x_up])
    bound = model.given(sigma=torch.cat([sigma, sigma, levels, levels]))  # type: ignore
    low, up = (-evaluate(bound, torch.cat([both, both]))).chunk(2)
    h, h_up = (low - torch.where(torch.cat([top, top]), prior.log_prob(both), up)).chunk(2)
    return softplus(-h) + softplus(h_up), h, h_up


@register("objective", "tre")
class TRE(Objective):
    """Tell the data at each noise level from those at the next, and at the highest from the model's prior. Every datum
    is used for one bridge, drawn uniformly."""

    headline = ("loss", "accuracy")
    validates = True
    needs = (Need("energy", "levels"), Need("energy", "energy"), Need("dataset", "continuous"))
    needs_float32 = "takes differences of energies at neighbouring noise levels"

    sigmas: Tensor
    """inf, which stands for the prior, then the ladder from its highest level down, (m + 1,)."""

    def __init__(self, energy: NoiseEnergy, generator: Generator) -> None:
        super().__init__(energy)
        self.generator, ladder = generator, energy.ladder
        rungs = [torch.inf, *(ladder.rung(i) for i in range(ladder.levels))]
        self.register_buffer("sigmas", torch.tensor(rungs).to(energy.mean), persistent=False)

    def learnt_log_z(self) -> Tensor:
        return cast(NoiseEnergy, self.energy).mean.new_zeros(())

    def learnt_blur(self) -> float:
        return cast(NoiseEnergy, self.energy).ladder.sigma_min

    def forward(self, batch: Batch) -> Loss:
        x, model = batch.x, cast(NoiseEnergy, self.energy)
        prior, bridges = model.prior(), model.ladder.levels
        u = torch.empty(len(x), dtype=x.dtype, device=x.device).uniform_(generator=self.generator)
        i = (u * bridges).long().clamp_max(bridges - 1)
        sigma, sigma_up = self.sigmas[i + 1], self.sigmas[i]
        z, noise = torch.empty_like(x).normal_(generator=self.generator), prior.sample(len(x), self.generator)
        x_low, top = x + per_sample(sigma, x) * z, sigma_up.isinf()
        x_up = torch.where(per_sample(top, x), noise, x + per_sample(sigma_up.masked_fill(top, 0.0), x) * z)
        values, h, h_up = telescoping_ratio_estimation(model, x_low, x_up, sigma, sigma_up, prior)
        loss = values.mean()
        accuracy = 0.5 * ((h > 0).float().mean() + (h_up < 0).float().mean())
        return Loss(loss, {"loss": loss.detach(), "accuracy": accuracy}, grad_evals=4 * len(x))
