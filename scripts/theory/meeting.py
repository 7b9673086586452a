"""Meeting times of coupled chains that begin at the data: the share of pairs still apart after each move."""

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, per_sample
from ebm_lab.core.mcmc import coupled_independence_steps
from ebm_lab.distributions.elementary import Distribution
from ebm_lab.objectives.unbiased_cd import together
from ebm_lab.samplers.mala import MALA


def mala(step_size: float) -> MALA:
    """MALA of one step of a fixed size."""
    fixed = {"target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity", "warmup": None}
    return MALA(1.0, steps=1, step_size=step_size, **fixed)  # type: ignore


def survival(
    energy: EnergyFn, x: Tensor, step_size: float, proposal: Distribution, refresh: int, moves: int
) -> list[float]:
    """Return P(tau > t) for t = 1 ... `moves`, tau the meeting time of the chains of objectives/unbiased_cd.py: one
    pair from each of x (n, *shape), whose moves are `refresh` independence steps and one step of MALA."""
    sampler, generator = mala(step_size), Generator().manual_seed(0)

    def move(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if refresh:
            a, b = coupled_independence_steps(energy, a, b, proposal, refresh, generator)
        chain, b = sampler.couple(energy, a, b, {}, generator=generator)
        return chain.x, b

    here, behind = move(x, x)[0], x
    met, apart = together(here, behind), []
    for _ in range(moves):
        apart.append(float((~met).double().mean()))
        here, other = move(here, behind)
        behind = torch.where(per_sample(met, other), here, other)
        met = met | together(here, behind)
    return apart
