"""Minimum probability flow: with a local kernel in continuous space, with all changes of one site on discrete data.

    K = E_x E_x'[ exp(-G / 2) ],    G(x, x') = E(x') - E(x) + log p_c(x' | x) - log p_c(x | x'),    x' ~ p_c(. | x)

K is the rate at which probability flows from the data to displaced points under dynamics that leave the model's law
invariant. It needs no sampler and no Z. The minimiser is the data's law, up to a constant, for any kernel that connects
the space: at G's true value the flow from x to x' equals the flow back. As the kernel's width goes to 0,
4 (K - 1) / width^2 tends to the loss of score matching. If the kernel is wide, the exponential gives few pairs a large
weight; conditional NCE has softplus in its place, and is more stable.

On bits and categories the displaced points are all neighbours: L = E_x sum_m exp((E(x) - E(x^m)) / 2), the loss of
_neighbours.py with phi(D) = e^(D/2).

Jascha Sohl-Dickstein, Peter Battaglino and Michael R. DeWeese, Minimum Probability Flow Learning, 2011,
arXiv:0906.4779.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, section 6, arXiv:2101.03288.
"""

from functools import partial

from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Batch, Dataset, Loss
from ebm_lab.core.registry import register
from ebm_lab.objectives._data_noise import refuse_noise
from ebm_lab.objectives._neighbours import compare_neighbours, neighbour_loss, probability_flow, unseen
from ebm_lab.objectives.cnce import Displaced, Width, conditional_odds


def minimum_probability_flow(
    energy: EnergyFn, x: Tensor, x_new: Tensor, log_ratio: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (exp(-G / 2), G, E(x)), (B,) each, for one displaced point x_new (B, *shape) per point x (B, *shape)."""
    odds, e = conditional_odds(energy, x, x_new, log_ratio)
    return (-odds / 2).exp(), odds, e


@register("objective", "mpf")
class MPF(Displaced):
    """Minimum probability flow, with the loss exp(-G / 2).

    On discrete data the neighbours are all changes of one site, and the settings of the kernel are not used.
    """

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
        settings = {"width_min": width_min, "width_max": width_max, "pull": pull, "copies": copies}
        super().__init__(energy, dataset, generator, **settings, data_noise=data_noise)  # type: ignore[arg-type]
        self.sites = known_sites(dataset)
        if self.sites:
            refuse_noise(dataset, data_noise)
            self.notes += [
                f"objective=mpf: the data are discrete, so each point is compared with all changes of one site; "
                f"{', '.join(settings)} are not used",
                *unseen(dataset, self.sites),
            ]

    def sees_within(self) -> float | None:
        return None if self.sites else super().sees_within()

    def forward(self, batch: Batch) -> Loss:
        if self.sites is None:
            return super().forward(batch)
        return neighbour_loss(self.energy, batch.x, self.sites, partial(compare_neighbours, probability_flow), True)

    def equation(self, x: Tensor, x_new: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return minimum_probability_flow(self.energy, x, x_new, log_ratio)
