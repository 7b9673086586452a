"""Cooperative diffusion recovery likelihood: an initialiser starts the chains of recovery likelihood near their law.

    v0 = h(seen, low) + s(seen, low) e,    e ~ N(0, I),    x0 = seen + gap v0
    x_neg = the end of a chain from x0 on E(., low) + |x - seen|^2 / (2 gap^2),    v_neg = (x_neg - seen) / gap
    energy:       min  E[ E(x, low) - E(sg x_neg, low) ]
    initialiser:  min  E[ |sg v_neg - h|^2 / (2 s^2) + d log s ]

The law of x given its copy `seen` is nearly a Gaussian, which the initialiser learns from the ends of the chains. Where
its law is that of x given `seen`, a chain of any length keeps it, and the gradients of both players are zero on average
at the true energy: the short chains of `drl`, which begin at `seen`, make its energy too steep instead. Since s is
learnt, and e is not used again for the regression, the initialiser does not contract (compare `coopnets`).

Yaxuan Zhu, Jianwen Xie, Ying Nian Wu and Ruiqi Gao, Learning Energy-Based Models by Cooperative Diffusion Recovery
Likelihood, 2023, algorithm 1, arXiv:2309.05153. Their initialiser has a fixed s.
"""

from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Dataset, Sampler
from ebm_lab.core.metrics import Metric
from ebm_lab.core.random import seed_from, seeded
from ebm_lab.core.registry import register
from ebm_lab.models.conditioning import FilmMLP
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.models.players import bounded_exp
from ebm_lab.objectives.drl import DRL

NARROWEST, WIDEST = 0.01, 3.0
"""Range of s, in gaps. Between two modes the law of x given its copy is wider than the gap."""


class Initialiser(nn.Module):
    """h and s of v, in gaps, for copies `seen` (B, *shape) of data at the levels `low` (B,). They begin at 0 and 1."""

    def __init__(self, model: NoiseEnergy, hidden: list[int], generator: Generator) -> None:
        super().__init__()
        d = model.mean.numel()
        with seeded(seed_from(generator)):
            self.net = FilmMLP(d, hidden, d + 1, "silu").to(model.mean)
        nn.init.zeros_(self.net.last.weight)
        nn.init.zeros_(self.net.last.bias)

    def forward(self, model: NoiseEnergy, seen: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Compute h (B, *shape) and s (B,)."""
        u, *_ = model.inputs(seen, low)
        out = self.net(u.flatten(1), model.ladder.height(low))
        return out[:, :-1].view_as(seen), bounded_exp(out[:, -1], NARROWEST, WIDEST)


@register("objective", "cdrl")
class CDRL(DRL):
    """Recovery likelihood with a learnt start of its chains; both players move at each step.

    `hidden`: widths of the initialiser's hidden layers.
    """

    metrics = (*DRL.metrics, Metric("loss_net", good="lower"))
    headline = ("gap", "loss_net", "acceptance", "lr", "lr_net")

    def __init__(
        self,
        energy: NoiseEnergy,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        scale: float,
        *,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
    ) -> None:
        super().__init__(energy, sampler, generator, scale)
        self.net = Initialiser(energy, hidden, generator)

    def warned(self) -> list[str]:
        return []

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"energy": list(self.energy.parameters()), "net": list(self.net.parameters())}

    @torch.no_grad()
    def start(self, seen: Tensor, low: Tensor) -> Tensor:
        h, s = self.net(cast(NoiseEnergy, self.energy), seen, low)
        return self.unit * (h + per_sample(s, h) * torch.empty_like(h).normal_(generator=self.generator))

    def beside(self, seen: Tensor, low: Tensor, end: Tensor) -> dict[str, Tensor]:
        h, s = self.net(cast(NoiseEnergy, self.energy), seen, low)
        square = flat_sum((end.detach() / self.unit - h) ** 2)
        return {"loss_net": (square / (2 * s**2) + h[0].numel() * s.log()).mean()}
