"""The initial value of a learnt log Z, for objectives that tell data from the samples of a law with a density."""

import math

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.distributions.elementary import Distribution

DRAWS = 4096


@torch.no_grad()
def log_z_under(energy: EnergyFn, law: Distribution, generator: Generator) -> Tensor:
    """Return log Z of the energy in nats, 0-d: the log of the mean of exp(-E) / q over DRAWS samples of the law q."""
    x = law.sample(DRAWS, generator)
    return torch.logsumexp(-evaluate(energy, x) - law.log_prob(x), 0) - math.log(DRAWS)
