"""Conditional noise-contrastive estimation: classify which of two points is the datum and which its displaced copy.

    G(x, x') = E(x') - E(x) + log p_c(x' | x) - log p_c(x | x'),    x' ~ p_c(. | x)
    L = 2 E_x E_x'[ softplus(-G) ]

G is the log odds that x and not x' is the datum; it does not contain Z. For any kernel p_c that connects the space the
minimiser is the data's law, up to the constant that Z would fix. For a symmetric kernel the last two terms cancel; for
any other they must not be left out, and their sign matters. As the kernel's width goes to 0, (L - 2 log 2) / width^2
tends to half the loss of score matching, which is blind to the weights of distant modes; a kernel that jumps between
modes is not.

The mean of L over the two points x' = x - v and x' = x + v, instead of a Gaussian kernel, is the shifted-data form
(equation 26 of the tutorial).

Ciwan Ceylan and Michael U. Gutmann, Conditional Noise-Contrastive Estimation of Unnormalised Models, 2018,
arXiv:1806.03664.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 26, arXiv:2101.03288.
"""

import math
from abc import abstractmethod
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, stacked
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.objectives._kernels import Kernel


def conditional_odds(energy: EnergyFn, x: Tensor, x_new: Tensor, log_ratio: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return (G, E(x)), (B,) each, where log_ratio (B,) is log p_c(x' | x) - log p_c(x | x')."""
    e, e_new = stacked(energy, x, x_new)
    return e_new - e + log_ratio, e


def conditional_nce(
    energy: EnergyFn, x: Tensor, x_new: Tensor, log_ratio: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, G, E(x)), (B,) each, for one displaced point x_new (B, *shape) per point x (B, *shape)."""
    odds, e = conditional_odds(energy, x, x_new, log_ratio)
    return 2 * softplus(-odds), odds, e


def shifted_nce(energy: EnergyFn, x: Tensor, v: Tensor) -> Tensor:
    """Return the shifted-data form, softplus(E(x) - E(x - v)) + softplus(E(x) - E(x + v)), (B,)."""
    behind, ahead = (conditional_nce(energy, x, x + shift, 0.0)[0] for shift in (-v, v))
    return 0.5 * (behind + ahead)


Width = PositiveFloat | Literal["auto"]


class Displaced(Objective):
    """Compare each datum with its displaced copies.

    `width_min`, `width_max`: range of the kernel's width, log-uniform for each pair, in units of the data's scale;
    `auto` is 0.05 and 2 in d <= 3 dimensions, and 1.6 / sqrt(d) and 25 / sqrt(d) in more, which displace by lengths of
    1.6 to 25; narrow pairs say less there.
    `pull` in [0, 1): how far the kernel pulls towards the data's mean (0: symmetric). `copies`: displaced copies per
    datum. `data_noise`: std of Gaussian noise added to the data, in units of the data's scale.
    """

    headline = ("loss", "accuracy")
    validates = True
    needs_float32 = "compares the energies of near points"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        width_min: Width,
        width_max: Width,
        pull: NonNegativeFloat,
        copies: PositiveInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        d = dataset.mean.numel()
        width_min = self._chosen("width_min", width_min, 0.05 if d <= 3 else 1.6 / d**0.5)
        width_max = self._chosen("width_max", width_max, 2.0 if d <= 3 else 25 / d**0.5)
        if width_max < width_min:
            raise UserError(f"objective.width_max={width_max}: must be at least width_min={width_min}")
        if pull >= 1:
            raise UserError(f"objective.pull={pull}: must be less than 1")
        self.generator, self.copies, self.data_noise = generator, copies, data_noise * dataset.scale
        self.kernel = Kernel(dataset.mean, pull, width_min * dataset.scale, width_max * dataset.scale)

    def _chosen(self, name: str, value: Width, auto: float) -> float:
        if value == "auto":
            self.resolved[name] = value = auto
        return value

    @abstractmethod
    def equation(self, x: Tensor, x_new: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, G, E(x)), (B,) each."""

    def sees_within(self) -> float | None:
        return math.hypot(self.kernel.wide, self.data_noise)

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        x = x.repeat(self.copies, *[1] * (x.ndim - 1))
        values, odds, e = self.equation(x, *self.kernel(x, self.generator))
        loss = values.mean()
        metrics = {"loss": loss.detach(), "e_pos": e.detach().mean(), "accuracy": (odds > 0).float().mean()}
        return Loss(loss, metrics, grad_evals=2 * len(x))


@register("objective", "cnce")
class CNCE(Displaced):
    """Conditional NCE, with the loss 2 softplus(-G)."""

    needs = (*Displaced.needs, Need("dataset", "continuous"))

    def equation(self, x: Tensor, x_new: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return conditional_nce(self.energy, x, x_new, log_ratio)
