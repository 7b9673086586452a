"""Energy matching: one static potential V, first a flow from noise to the data, then the energy of the data's law.

    flow:      L_f = E w(t) |grad V(x_t) + (x_1 - x_0)|^2 / d,    x_t = (1 - t) x_0 + t x_1 + sigma z,    t ~ U(0, 1)
    contrast:  L_c = lambda (E V(x_1) - E V(sg x_neg)),    x_neg by chains on V / eps

in units of the data's scale; the energy of the run's config is V / scale^2. x_1 are data, x_0 draws of
N(mean, scale^2 I), paired with x_1 within the batch by optimal transport, and sg stops the gradient. Phase 1 minimises
L_f with w = 1, so that -grad V carries noise to data in unit time along nearly straight lines. Phase 2 minimises
L_f + L_c, with w = (1 - t) / (1 - tau) for t > tau, so that the flow lets go of V near the data. A share of the
negatives begins at the data; the others begin at x_0 and follow the flow without noise for unit time. All then take the
sampler's steps at the temperature eps. The minimiser of L_c alone is V = -eps log p if the chains reach their law, or
if all of them begin at the data; short chains from noise do not spread as the data do, and V makes up for it.

    p(x) = exp(-V(x) / eps) / Z

is the law that the run claims, measures and samples; V itself is no energy in nats, and after phase 1 it is a
velocity's potential and no density: a transport from N(0, 1) to N(0, 1.7) has a repulsive V. Where the paths of the
flow cross the data, its term pulls V away from -eps log p also in phase 2, by an error that falls as lambda grows.

The published chains raise the temperature from 0 to eps while they run; here it is 0 on the way and then eps.

Michal Balcerak et al., Energy Matching: Unifying Flow Matching and Energy-Based Models for Generative Modeling, 2025,
arXiv:2504.10612.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.derived import Tempered, tempered
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, frozen, gradient_of, per_sample
from ebm_lab.core.interfaces import Batch, Chain, Dataset, Loss, Objective, Sampler, Turn
from ebm_lab.core.registry import register
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.start import start_law
from ebm_lab.objectives._contrastive import contrast, run_chains

FLOW, BOTH = Turn(None, "flow"), Turn(None, "flow and contrast")
Share = Annotated[float, Field(ge=0, lt=1)]


@torch.library.custom_op("ebm_lab::optimal_pairs", mutates_args=())
def optimal_pairs(x: Tensor, y: Tensor) -> Tensor:
    """Return the permutation (B,) of the rows of y (B, d) that minimises sum_i |x_i - y_perm(i)|^2."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.double(), y.double()).square().cpu()
    return torch.as_tensor(linear_sum_assignment(cost.numpy())[1], device=x.device)


@optimal_pairs.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(len(x), dtype=torch.int64)


def flow_matching(potential: EnergyFn, x_0: Tensor, x_1: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return |grad V(x_t) + (x_1 - x_0)|^2 / d, (B,), in data units, at x_t = (1 - t) x_0 + t x_1 + noise, t (B,)."""
    t_ = per_sample(t, x_0)
    _, grad = energy_and_grad(potential, (1 - t_) * x_0 + t_ * x_1 + noise, create_graph=True)
    return flat_sum((grad + x_1 - x_0) ** 2) / x_0[0].numel()


def flow_weight(t: Tensor, tau: float) -> Tensor:
    """Return 1 up to t = tau, from where it falls linearly to 0 at t = 1."""
    return ((1 - t) / (1 - tau)).clamp_max(1.0)


@register("objective", "energy_matching")
class EnergyMatching(Objective):
    """Match a flow for the first `warmup` share of the steps, then also contrast data with chains.

    `path_noise`: sigma, in units of the data's scale; `temperature`: eps, in units of the scale squared; `contrast`:
    lambda; `tau`: the time up to which phase 2 keeps the flow at full weight; `from_data`: the share of the chains that
    begin at the data; `transport`: Euler steps of the flow that the others take first.
    """

    headline = ("loss", "flow", "gap", "acceptance")
    sampler: Sampler
    needs = (Need("energy", "energy"), Need("energy", "smooth"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: nn.Module,
        sampler: Sampler,
        dataset: Dataset,
        generator: Generator,
        steps: int,
        *,
        warmup: Share,
        path_noise: NonNegativeFloat,
        temperature: PositiveFloat,
        contrast: NonNegativeFloat,
        tau: Share,
        from_data: Annotated[float, Field(ge=0, le=1)],
        transport: PositiveInt,
    ) -> None:
        super().__init__(energy)
        self.sampler, self.generator, self.start = sampler, generator, start_law(dataset)
        self.last_of_flow = int(warmup * steps)
        self.sigma, self.eps, self.square = path_noise * dataset.scale, temperature, dataset.scale**2
        self.weight, self.tau, self.from_data, self.transport = contrast, tau, from_data, transport
        self.notes.append(f"energy_matching: the density that is measured and sampled is exp(-E / {temperature:g})")
        if base_of(energy) is not None and base_of(self.model()) is None:
            self.notes.append("energy_matching: the energy's base is none of that density (energy.base=none: without)")
        self.not_separable = "optimal transport pairs the points of a whole batch"

    def model(self) -> nn.Module:
        return tempered(self.energy, self.eps)

    def potential(self) -> Tempered:
        """Return V, in data units squared."""
        return Tempered(self.energy, 1 / self.square)

    def turn(self, step: int) -> Turn:
        return FLOW if step <= self.last_of_flow else BOTH

    def forward(self, batch: Batch, turn: Turn) -> Loss:
        x_1 = batch.x
        x_0 = self.start.sample(len(x_1), self.generator)
        x_0 = x_0[optimal_pairs(x_1.flatten(1), x_0.flatten(1))]
        t = torch.empty(len(x_1), dtype=x_1.dtype, device=x_1.device).uniform_(generator=self.generator)
        noise = self.sigma * torch.empty_like(x_1).normal_(generator=self.generator)
        flow = flow_matching(self.potential(), x_0, x_1, t, noise) / self.square
        if turn == FLOW:
            value = flow.mean()
            return Loss(value, {"loss": value.detach(), "flow": value.detach()}, grad_evals=2 * len(x_1))
        chain = self.negatives(x_0, x_1)
        e_pos, e_neg = contrast(self.model(), x_1, chain.x)
        gap = e_pos.mean() - e_neg.mean()
        value = (flow_weight(t, self.tau) * flow).mean() + self.weight * self.eps * gap
        metrics = {"loss": value, "flow": flow.mean(), "gap": gap}
        metrics = {name: metric.detach() for name, metric in metrics.items()} | chain.metrics
        return Loss(value, metrics, grad_evals=chain.grad_evals + 4 * len(x_1))

    def negatives(self, x_0: Tensor, x_1: Tensor) -> Chain:
        """Return chains on V / eps, a share of them from the data, the others from where the flow carries x_0."""
        first = round(self.from_data * len(x_1))
        carried = x_0[first:]
        with frozen(self.energy):
            slope = gradient_of(self.potential())
            for _ in range(self.transport if len(carried) else 0):
                carried = carried - slope(carried)[1] / self.transport
        x = torch.cat([x_1[:first], carried])
        chain = run_chains(self, self.sampler, self.model(), x, self.generator)
        return chain._replace(grad_evals=chain.grad_evals + self.transport * len(carried))
