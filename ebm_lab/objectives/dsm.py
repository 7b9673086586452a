"""Denoising score matching.

    L = 1/2 E_x E_eps | sigma s(x + sigma eps) + eps |^2,    eps ~ N(0, I),    s = -grad_x E

This is sigma^2 times Vincent's loss. Its minimiser is the score of q_sigma = p * N(0, sigma^2 I), the data blurred by
sigma, not the score of p: a small sigma is nearly unbiased but noisy (the variance of the gradient grows as
1 / sigma^2). The loss needs no sampler and no Z; it is blind to the weights of modes that lie many sigma apart.

The control variate subtracts sigma^2 c / 2 from each value, c = (2 / sigma) eps . s(x) + (|eps|^2 - d) / sigma^2. Its
mean is 0, so the minimiser is the same, and the variance stays bounded as sigma -> 0. It depends on theta and is not
detached.

Pascal Vincent, A Connection Between Score Matching and Denoising Autoencoders, 2011, equation 11.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 10, arXiv:2101.03288.
Ziyu Wang, Shuyu Cheng, Yueru Li, Jun Zhu and Bo Zhang, A Wasserstein Minimum Velocity Approach to Learning Unnormalized
Models, 2020, arXiv:2002.07501 (control variate; equations 13 and 14 of the tutorial).
"""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, score
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.registry import register
from ebm_lab.distributions.blur import noise_level


def denoising_score_matching(energy: EnergyFn, x: Tensor, eps: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, energy, score) at the noisy points x + sigma eps: (B,), (B,), (B, *shape)."""
    e, grad = energy_and_grad(energy, x + sigma * eps, create_graph=True)
    return 0.5 * flat_sum((eps - sigma * grad) ** 2), e, -grad


AUTO = 4 / 3
"""The value of `sigma: auto` in units of the leave-one-out bandwidth, if its blur costs little."""


def dsm_control_variate(energy: EnergyFn, x: Tensor, eps: Tensor, sigma: float) -> Tensor:
    """Return sigma^2 c / 2 at the clean points x, (B,), to be subtracted from the loss of the same x and eps."""
    s = score(energy, x, create_graph=True)
    return sigma * flat_sum(eps * s) + 0.5 * (flat_sum(eps * eps) - x[0].numel())


@register("objective", "dsm")
class DSM(Objective):
    """Denoise the data at one noise level.

    `sigma`: noise level in data units. `auto` is 4/3 of the bandwidth that maximises the leave-one-out likelihood of a
    kernel density estimate on the training data, but for points no more than the level whose blur costs 0.01 nats
    (distributions/blur.py): in few dimensions a little more blur than the bandwidth costs little, and many more points
    then determine the weights of neighbouring modes. `antithetic`: use each noise vector with both signs, which cancels
    the odd part of the gradient's variance (most of it if sigma is small) at twice the cost. `control_variate`:
    subtract sigma^2 c / 2, which cancels the leading term of the variance, at twice the cost. Antithetic noise cancels
    that term too, so only one of the two can be used.
    """

    headline = ("loss", "score_norm")
    validates = True
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        sigma: PositiveFloat | Literal["auto"],
        antithetic: bool,
        control_variate: bool,
    ) -> None:
        super().__init__(energy)
        if antithetic and control_variate:
            raise UserError(
                "objective.control_variate=true: needs objective.antithetic=false, since both cancel the same term"
            )
        self.control_variate = control_variate
        self.generator = generator
        self.antithetic = antithetic
        if sigma == "auto":
            sigma, self.notes = noise_level(dataset, AUTO, "objective.sigma")
            self.resolved["sigma"] = sigma
        self.sigma = sigma

    def learnt_blur(self) -> float:
        return self.sigma

    def sees_within(self) -> float:
        return self.sigma

    def forward(self, batch: Batch) -> Loss:
        x, eps = batch.x, torch.empty_like(batch.x).normal_(generator=self.generator)
        if self.antithetic:
            x, eps = torch.cat([x, x]), torch.cat([eps, -eps])
        values, e, s = denoising_score_matching(self.energy, x, eps, self.sigma)
        if self.control_variate:
            values = values - dsm_control_variate(self.energy, x, eps, self.sigma)
        loss = values.mean()
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=(2 + 2 * self.control_variate) * len(x))
