"""Energy discrepancy: contrast the datum's energy with the energies of points around its blurred copy.

    ED = E_x[ E(x) ] - E_x E_y[ U(y) ],    y = x + sqrt(t) xi,    U(y) = -log E_xi' exp(-E(y + sqrt(t) xi'))
    loss = log( w / M + sum_i omega_i exp(E(x) - E(y + sqrt(t) xi'_i)) ),    omega_i = 1 / M,    i = 1 .. M

It needs no sampler, no score and no Z. The minimiser of ED is the data's law for every t; ED / t tends to the loss of
score matching as t -> 0, and its gradient tends to the likelihood's as t -> infinity. The loss estimates U by M
samples, which biases it: w stabilises the logarithm, and the remaining bias falls with M. If t is too small for M, the
loss with w = 1 is M / (M + 1) times that of score matching, and with w = 0 its minimiser is wrong.

On bits and categories the copies are displaced by a discrete kernel (_discrete_kernels.py), twice: y from x, and the M
points from y. With `bernoulli`, ED / eps tends to the score entropy as eps -> 0, and at eps = 1/2 it is the likelihood.
`absorbing` needs no samples of the values at a site, and is the pseudo-likelihood of `samples` sites.

Tobias Schroder, Zijing Ou, Jen Ning Lim, Yingzhen Li, Sebastian J. Vollmer and Andrew B. Duncan, Energy Discrepancies:
A Score-Independent Loss for Energy-Based Models, 2023, arXiv:2307.06431.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.discrete import Sites, known_sites
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.objectives._data_noise import refuse_noise
from ebm_lab.objectives._discrete_kernels import DiscreteKernel, absorbing_discrepancy, displaced
from ebm_lab.objectives._neighbours import some_changes


def energy_discrepancy(
    energy: EnergyFn, x: Tensor, x_neg: Tensor, w: float, log_omega: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (loss, E(x)), (B,) each, for points x_neg (M, B, *shape) around the blurred copies of x (B, *shape).

    log_omega (M,) are the log weights of the points; None: 1 / M each.
    """
    m, e = len(x_neg), evaluate(energy, x)
    log_weights = e.new_full((m,), -math.log(m)) if log_omega is None else log_omega
    rise = log_weights[:, None] + e - evaluate(energy, x_neg.flatten(0, 1)).view(m, -1)
    if w:
        rise = torch.cat([rise, torch.full_like(rise[:1], math.log(w / m))])
    return torch.logsumexp(rise, 0), e


@register("objective", "ed")
class ED(Objective):
    """Contrast each datum with `samples` points around its blurred copy.

    `kernel`: gaussian for real numbers; bernoulli, grid or absorbing for discrete values; auto: gaussian or bernoulli.
    `blur`: sqrt(t) of gaussian, in units of the data's scale. `flip`: eps of bernoulli. `samples`: M. `w`: weight of
    the constant that stabilises the logarithm. `data_noise`: std of Gaussian noise added to the data, in units of the
    data's scale.
    """

    headline = ("loss",)
    validates = True
    needs_float32 = "weighs the energies of near points against each other"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        kernel: Literal["auto", "gaussian"] | DiscreteKernel,
        blur: PositiveFloat,
        flip: Annotated[float, Field(gt=0, le=0.5)],
        samples: PositiveInt,
        w: NonNegativeFloat,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.sites = known_sites(dataset)
        refuse_noise(dataset, data_noise)
        if kernel == "auto":
            kernel = "gaussian" if self.sites is None else "bernoulli"
            self.resolved = {"kernel": kernel}
        if (kernel == "gaussian") != (self.sites is None):
            fits = "bernoulli, grid or absorbing" if self.sites else "gaussian"
            raise UserError(f"objective.kernel={kernel}: the data are {dataset.space}; choose {fits}")
        self.kernel, self.flip = kernel, flip
        self.generator, self.samples, self.w = generator, samples, w
        self.blur, self.data_noise = blur * dataset.scale, data_noise * dataset.scale

    def sees_within(self) -> float | None:
        return None if self.sites else math.hypot(math.sqrt(2) * self.blur, self.data_noise)

    def forward(self, batch: Batch) -> Loss:
        if self.sites is not None:
            return self._discrete(batch.x, self.sites)
        x = with_noise(batch.x, self.data_noise, self.generator)
        y = x + self.blur * torch.empty_like(x).normal_(generator=self.generator)
        around = torch.empty(self.samples, *x.shape, dtype=x.dtype, device=x.device).normal_(generator=self.generator)
        values, e = energy_discrepancy(self.energy, x, y + self.blur * around, self.w)
        loss = values.mean()
        return Loss(loss, {"loss": loss.detach(), "e_pos": e.detach().mean()}, grad_evals=len(x) * (1 + self.samples))

    def _discrete(self, x: Tensor, sites: Sites) -> Loss:
        if self.kernel == "absorbing":
            which = some_changes(sites, min(self.samples, sites.count), self.generator)
            loss = absorbing_discrepancy(self.energy, x, sites, which).mean()
            return Loss(loss, {"loss": loss.detach()}, grad_evals=len(x) * (1 + len(which)))
        y = displaced(x, sites, self.kernel, self.flip, self.generator)  # type: ignore[arg-type]
        around = displaced(y.repeat(self.samples, *[1] * (y.ndim - 1)), sites, self.kernel, self.flip, self.generator)  # type: ignore[arg-type]
        values, e = energy_discrepancy(self.energy, x, around.view(self.samples, *x.shape), self.w)
        loss = values.mean()
        return Loss(loss, {"loss": loss.detach(), "e_pos": e.detach().mean()}, grad_evals=len(x) * (1 + self.samples))
