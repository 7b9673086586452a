"""Diffusion recovery likelihood: at each noise level, the likelihood of a point given its copy at the next level.

    L = E_i E_x [ E(x, low_i) - E(sg x_neg, low_i) ],    x_neg ~ exp(-E(x, low_i) - |x - seen|^2 / (2 gap_i^2))

with x the data at the level low_i, seen = x + gap_i z, and i uniform over neighbouring levels of the ladder; sg stops
the gradient. Its gradient is that of -E log p(x | seen), p(x | seen) ~ exp(-E(x) - |x - seen|^2 / (2 gap^2)), whose
minimiser at each level is q_low = p * N(0, low^2 I), whatever the gap, if the chains reach the law of x given seen. For
gap -> 0 the log-likelihood tends to -gap^2 times the loss of score matching, for gap -> infinity to the likelihood. The
sum over levels is the log-likelihood of the whole sequence of noisy copies, given the last one.

The chains begin at `seen`. K Langevin steps of eps^2 = b gap^2 that are too few leave them near it: x_neg is then too
wide, and E too steep by a factor that does not vanish with training. With K b >= 10 E becomes a density; below, E and
its chain are a sampler.

E is in nats here. The published network is f = -step^2 E, with step^2 = c_t b^2 sigma^2 in their letters, and its chain
climbs f / step^2: there f / step^2 is the log-density, and f is not. The law that the run claims, measures and samples
is exp(-E) at the lowest level, up to the constant that is free at every level.

Ruiqi Gao et al., Learning Energy-Based Models by Diffusion Recovery Likelihood, 2021, arXiv:2012.08125. Their diffusion
shrinks x as it adds noise; this one only adds noise, as the ladder does.
"""

from typing import cast

import torch
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, per_sample, stacked
from ebm_lab.core.interfaces import Batch, Loss, Objective, Sampler
from ebm_lab.core.metrics import Metric
from ebm_lab.core.registry import register
from ebm_lab.models.ladder import Ladder
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.models.recovery import recovery
from ebm_lab.objectives._contrastive import run_chains

ENOUGH = 10.0
"""K b, the number of steps times their square in units of the gap, from which the chains' bias is a few percent."""


def recovery_contrast(level: EnergyFn, x: Tensor, x_neg: Tensor) -> Tensor:
    """Return E(x) - E(sg x_neg), (B,), at the level of each sample, to which `level` is bound."""
    e_pos, e_neg = stacked(level, x, x_neg.detach())
    return e_pos - e_neg


def draw_pairs(ladder: Ladder, n: int, generator: Generator, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw neighbouring levels with equal probability: return low (n,), and gap (n,), gap^2 = high^2 - low^2."""
    u, last = torch.empty(n, dtype=like.dtype, device=like.device).uniform_(generator=generator), ladder.levels - 1
    i = (u * last).floor().clamp_max(last - 1)
    high, low = ladder.spread(i / last), ladder.spread((i + 1) / last)
    return low, (high**2 - low**2).sqrt()


@register("objective", "drl")
class DRL(Objective):
    """Contrast the data at each level with short chains that begin at their copies at the next level.

    The step of the training sampler is in units of the gap between two levels.
    """

    headline = ("gap", "acceptance")
    metrics = (Metric("moved", "distance from the chains' start, in gaps"),)
    sampler: Sampler
    needs = (Need("energy", "energy"), Need("energy", "levels"), Need("dataset", "continuous"))

    def __init__(self, energy: NoiseEnergy, sampler: Sampler, generator: Generator, scale: float) -> None:
        super().__init__(energy)
        self.sampler, self.generator, self.unit = sampler, generator, scale
        name, lowest = type(self).__name__.lower(), energy.ladder.sigma_min
        self.notes.append(f"{name}: the density that is measured is exp(-E) at the lowest noise level, {lowest:g}")
        self.notes += self.warned()

    def warned(self) -> list[str]:
        """Return a line if the chains are too short to leave the points that they begin at."""
        steps, reach = self.sampler.steps, self.sampler.reach
        if reach is None or reach >= ENOUGH:
            return []
        return [
            f"drl: {steps} steps of this size make K b = {reach:.2g}, and below {ENOUGH:g} the chains "
            f"stay too near their start: the energy comes out too steep, a part of a sampler and no density"
        ]

    def start(self, seen: Tensor, low: Tensor) -> Tensor:
        """Return where the chains begin, u of `recovery`, (B, *shape): at `seen`."""
        return torch.zeros_like(seen)

    def beside(self, seen: Tensor, low: Tensor, end: Tensor) -> dict[str, Tensor]:
        """Return losses of further players, by metric, 0-d, of chains that ended at u = `end`."""
        return {}

    def learnt_blur(self) -> float:
        return cast(NoiseEnergy, self.energy).ladder.sigma_min

    def forward(self, batch: Batch) -> Loss:
        model = cast(NoiseEnergy, self.energy)
        low, gap = draw_pairs(model.ladder, len(batch.x), self.generator, batch.x)
        x = batch.x + per_sample(low, batch.x) * torch.empty_like(batch.x).normal_(generator=self.generator)
        seen = x + per_sample(gap, x) * torch.empty_like(x).normal_(generator=self.generator)
        target, start = recovery(model, seen, low, gap, self.unit), self.start(seen, low)
        chain = run_chains(self, self.sampler, target, start, self.generator)
        value = recovery_contrast(model.given(sigma=low), x, target.x(chain.x)).mean()
        moved = flat_sum((chain.x - start) ** 2).mean().sqrt() / (self.unit * x[0].numel() ** 0.5)
        metrics, more = {"loss": value, "gap": value, "moved": moved}, self.beside(seen, low, chain.x)
        metrics = {name: m.detach() for name, m in (metrics | more).items()} | chain.metrics
        return Loss(sum(more.values(), value), metrics, grad_evals=chain.grad_evals + 2 * len(x))
