"""Gaussians with random directions in many dimensions: are weights and shapes learnt where no picture shows them?

    p(x) = sum_k w_k N(x; m_k, S_k),    S_k = Q_k diag(lambda) Q_k',    lambda from 1 / condition to 1, evenly in log

with Q_k a random rotation, one for all components if `shared`. The means lie `separation` apart, in the metric of the
average covariance S:  (m_i - m_j)' S^-1 (m_i - m_j) = separation^2 for every pair. One component is a Gaussian.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


@register("dataset", "random_mixture")
class RandomMixture(Synthetic):
    """`dim`: dimensions; `weights`: of the components, relative to their sum; `separation`: between any two means, in
    standard deviations; `condition`: the ratio of the largest to the smallest variance of a component; `shared`: have
    all components one covariance? `law_seed`: of rotations and means; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        dim: PositiveInt,
        weights: Annotated[list[PositiveFloat], Field(min_length=1)],
        separation: NonNegativeFloat,
        condition: Annotated[float, Field(ge=1)],
        shared: bool,
        law_seed: NonNegativeInt,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        k, generator = len(weights), stream(law_seed, "random_mixture/law")
        if k > dim + 1:
            raise UserError(
                f"dataset.weights={weights}: at most {dim + 1} points of {dim} coordinates can all be equally far apart"
            )
        variances = torch.logspace(-math.log10(condition), 0, dim, dtype=torch.float64)
        normal = torch.randn(1 if shared else k, dim, dim, dtype=torch.float64, generator=generator)
        q = torch.linalg.qr(normal).Q
        covariances = (q * variances @ q.mT).expand(k, dim, dim)
        directions = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
        corners = _simplex(k) @ directions[: k - 1] * separation
        root = torch.linalg.cholesky(covariances.mean(0))
        law = GaussianMixture(
            torch.tensor(weights, dtype=torch.float64), corners @ root.mT, covariances=covariances.contiguous()
        )
        super().__init__(law, "random_mixture", train, held_out, seed)


def _simplex(k: int) -> torch.Tensor:
    """Return the corners of a regular simplex of k corners and edges of length 1 around 0, (k, k - 1)."""
    centred = torch.eye(k, dtype=torch.float64) - 1 / k
    u, s, _ = torch.linalg.svd(centred / math.sqrt(2))
    return (u * s)[:, : k - 1]
