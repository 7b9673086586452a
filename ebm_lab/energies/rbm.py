"""The restricted Boltzmann machine on bits, with its hidden units summed out.

    E(x) = -b'x - sum_j softplus(c_j + W_j'x),    p(x, h) ~ exp(b'x + c'h + h'W x),  h in {0, 1}^n

    p(h_j = 1 | x) = sigmoid(c_j + W_j'x),    p(x_i = 1 | h) = sigmoid(b_i + (W'h)_i)
    log Z = logsumexp over h of c'h + sum_i softplus(b_i + (W'h)_i),    or over x of -E(x), whichever are fewer

    p_b(x) ~ exp((1 - b) l'x + b b'x) prod_j (1 + exp(b (c_j + W_j'x))),    a path from bits with logits l

Paul Smolensky, Information Processing in Dynamical Systems: Foundations of Harmony Theory, 1986.
Geoffrey E. Hinton, A Practical Guide to Training Restricted Boltzmann Machines, 2012, section 8 (first values).
Ruslan Salakhutdinov and Iain Murray, On the Quantitative Analysis of Deep Belief Networks, 2008, section 4.1 (path).
"""

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebm_lab.core.discrete import Draws, Sites
from ebm_lab.core.features import Need
from ebm_lab.core.functional import GradientFn
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.registry import register
from ebm_lab.distributions.product import fit_product

MOST = 20
"""The most units of the smaller layer whose states are summed for log Z."""
NUMBERS = 2**23
"""Numbers held at once while log odds are computed."""


def free_energy(b: Tensor, c: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """Return -b'x - sum_j softplus(c_j + W_j'x), (B, *shape) -> (B,)."""
    x = x.flatten(1)
    return -(x @ b) - softplus(torch.addmm(c, x, w.T)).sum(1)


def layer_by_layer(b: Tensor, c: Tensor, w: Tensor, x: Tensor, draws: Draws) -> Tensor:
    """Draw h given x, and then x given h; return x, (B, *shape)."""
    h = draws.bits(torch.addmm(c, x.flatten(1), w.T))
    return draws.bits(torch.addmm(b, h, w)).view(x.shape)


@register("energy", "rbm")
class RBM(Energy):
    """Bits of any event shape, flattened. `hidden`: number of hidden units; `weight_std`: std of the first weights. The
    first b are the logits of the data's frequencies, so that training begins near independent bits."""

    needs = (Need("dataset", "binary"),)
    offers = Energy.offers | {"conditionals", "annealed"}

    def __init__(self, dataset: Dataset, *, hidden: PositiveInt, weight_std: PositiveFloat) -> None:
        super().__init__()
        self.b = nn.Parameter(fit_product(dataset).logits.flatten().clone().cpu())
        self.c = nn.Parameter(torch.zeros(hidden))
        self.w = nn.Parameter(weight_std * torch.randn(hidden, len(self.b)))

    def forward(self, x: Tensor) -> Tensor:
        return free_energy(self.b, self.c, self.w, x)

    def gradient(self) -> GradientFn | None:
        if type(self).forward is not RBM.forward:
            return None
        b, c, w = self.b.detach(), self.c.detach(), self.w.detach()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            flat = x.detach().flatten(1)
            a = torch.addmm(c, flat, w.T)
            return -(flat @ b) - softplus(a).sum(1), (-b - a.sigmoid() @ w).view(x.shape)

        return at

    def log_odds(self, x: Tensor) -> Tensor | None:
        """D_i = s_i b_i + sum_j [softplus(a_j + s_i W_ji) - softplus(a_j)], s = 1 - 2 x, a = c + W x: as many numbers
        as bits times hidden units for each point."""
        if type(self).forward is not RBM.forward:
            return None
        flat = x.flatten(1)
        size = max(1, NUMBERS // self.w.numel())
        return torch.cat([self._log_odds(part) for part in flat.split(size)])

    def _log_odds(self, x: Tensor) -> Tensor:
        s, a = 1 - 2 * x, torch.addmm(self.c, x, self.w.T)
        moved = softplus(a[:, :, None] + s[:, None] * self.w).sum(1)
        return s * self.b + moved - softplus(a).sum(1, keepdim=True)

    def sweep(self, x: Tensor, draws: Draws) -> Tensor:
        return layer_by_layer(self.b, self.c, self.w, x, draws)

    def annealed(self, logits: Tensor, b: float) -> Energy:
        return OnPath(self, logits.flatten(), b)

    def exact_log_z(self) -> Tensor | None:
        """Return log Z by summing over the smaller layer, in float64, if it has at most MOST units."""
        b, c, w = self.b.double(), self.c.double(), self.w.double()
        if min(w.shape) > MOST:
            return None
        if len(b) < len(c):
            b, c, w = c, b, w.T
        sums = [h @ c + softplus(b + h @ w).sum(1) for h in Sites((len(c),)).every(c, 2**14)]
        return torch.cat(sums).logsumexp(0)


class OnPath(Energy):
    """The energy of p_b, between independent bits with these logits (d,) and the model."""

    def __init__(self, rbm: RBM, logits: Tensor, b: float) -> None:
        super().__init__()
        self.b, self.c, self.w = (1 - b) * logits + b * rbm.b.detach(), b * rbm.c.detach(), b * rbm.w.detach()
        self.shift = (1 - b) * (softplus(logits).sum() + len(self.c) * math.log(2))
        """Makes E_0 normalised."""

    def forward(self, x: Tensor) -> Tensor:
        return free_energy(self.b, self.c, self.w, x) + self.shift

    def sweep(self, x: Tensor, draws: Draws) -> Tensor:
        return layer_by_layer(self.b, self.c, self.w, x, draws)
