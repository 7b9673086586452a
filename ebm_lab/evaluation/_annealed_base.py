"""What annealed importance sampling and sequential Monte Carlo have in common: the base, and the kernels they take."""

from typing import Any, Literal

import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.evaluation._annealed_importance import Whitened

EXACT = "one without a Metropolis test leaves no p_b exactly invariant, and E[w] is then not Z"
Shape = Literal["covariance", "diagonal", "isotropic"]


def fit_base(energy: EnergyFn, dataset: Dataset, shape: Shape, floor: float) -> Whitened:
    """The energy in the coordinates of N(mean, S), S the training data's covariance (of 20,000 points at most), its
    diagonal or its mean variance, plus floor * scale^2 * I: pixels that never change would leave it singular."""
    flat = subset(dataset.train, 20_000).flatten(1).double()
    d, spread = flat.shape[1], flat.T.cov().view(flat.shape[1], -1)
    eye = torch.eye(d, dtype=flat.dtype, device=flat.device)
    if shape != "covariance":
        spread = spread * eye if shape == "diagonal" else spread.diagonal().mean() * eye
    factor = torch.linalg.cholesky(spread + floor * dataset.scale**2 * eye)
    return Whitened(energy, dataset.mean, factor.to(dataset.mean))


def check_transition(kernel: Any, path: str) -> None:
    """Refuse a kernel of another law than p_b, of a mass of its own or that goes on adapting; `path`: of its
    settings."""
    mass = "identity" if kernel.widths is None else "diagonal"
    for name, value, allowed in (
        ("temperature", kernel.temperature, 1.0),
        ("mass", mass, "identity"),
        ("warmup", kernel.warmup, None),
    ):
        if value != allowed:
            raise UserError(
                f"{path}.{name}={value}: must be {'null' if allowed is None else allowed}: the "
                f"chains sample p_b itself, in the base's own coordinates, with steps that only the pilot run adapts"
            )
