"""Gaussian mixtures: exact samples and an exact density, as data or as noise.

    p(x) = sum_k w_k N(x; m_k, S_k),    S_k = diag(std_k^2) or a full covariance
    r_k(x) = w_k N(x; m_k, S_k) / p(x),    so that E_p[r_k(x)] = w_k

With x = m_k + L_k z, z ~ N(0, I) and L_k L_k' = S_k:  -2 log N(x; m_k, S_k) = |z|^2 + 2 log det L_k + d log 2 pi.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.elementary import inverse_factor


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians.

    weights (K,): positive, relative to their sum; means (K, *shape). Give one of the two: stds, positive, which
    broadcast against the means, so that (K, 1) gives each component of vectors its own; or covariances (K, d, d) over
    the d flattened coordinates. Samples have the means' dtype and device.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor | None = None
    covariances: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.stds is None) == (self.covariances is None):
            raise ValueError("give a mixture either stds or covariances")
        if self.weights.shape != self.means.shape[:1]:
            raise ValueError(f"{tuple(self.weights.shape)} weights for {len(self.means)} means")

    @cached_property
    def odds(self) -> Tensor:
        """The weights, summing to 1, (K,)."""
        return self.weights / self.weights.sum()

    @property
    def middles(self) -> Tensor:
        """A point in the middle of each component, (K, *shape)."""
        return self.means

    @cached_property
    def _flat_means(self) -> Tensor:
        return self.means.flatten(1)

    @cached_property
    def _flat_stds(self) -> Tensor | None:
        return None if self.stds is None else self.stds.expand_as(self.means).flatten(1)

    @cached_property
    def _factors(self) -> Tensor | None:
        return None if self.covariances is None else torch.linalg.cholesky(self.covariances)

    @cached_property
    def _whiteners(self) -> Tensor | None:
        """L_k^-1, (K, d, d)."""
        return None if self._factors is None else inverse_factor(self._factors)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n samples, (n, *shape)."""
        return self.labelled(n, generator)[0]

    def labelled(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw n samples, (n, *shape), and the component that each comes from, (n,)."""
        means, stds, factors = self._flat_means, self._flat_stds, self._factors
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.empty(n, means.shape[1], dtype=means.dtype, device=means.device).normal_(generator=generator)
        if stds is not None:
            noise = stds[which] * z
        else:
            assert factors is not None
            noise = (z @ factors.mT)[which, torch.arange(n, device=z.device)]
        return (means[which] + noise).view(n, *self.means.shape[1:]), which

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute the log density in nats, (B, *shape) -> (B,); differentiable in x."""
        return torch.logsumexp(self._logits(x), 1) - 0.5 * self._flat_means.shape[1] * math.log(2 * math.pi)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Compute r_k(x), (B, *shape) -> (B, K): the probability that x belongs to component k."""
        return self._logits(x).softmax(1)

    def distances(self, x: Tensor) -> Tensor:
        """Compute |z|, (B, *shape) -> (B, K): the distance of x from each mean, in the component's own stds."""
        return self._standardised(x)[0].norm(dim=2)

    def _logits(self, x: Tensor) -> Tensor:
        """Compute log of w_k N(x; m_k, S_k), without the constant that all components share, (B, K)."""
        z, log_det = self._standardised(x)
        return self.odds.log() - log_det - 0.5 * z.square().sum(2)

    def _standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (z, log det L_k), (B, K, d) and (K,), with x = m_k + L_k z."""
        stds, factors, whiteners = self._flat_stds, self._factors, self._whiteners
        offset = x.flatten(1).unsqueeze(1) - self._flat_means  # (B, K, d)
        if stds is not None:
            return offset / stds, stds.log().sum(1)
        assert factors is not None and whiteners is not None
        z = (offset.transpose(0, 1) @ whiteners.mT).transpose(0, 1)
        return z, factors.diagonal(dim1=1, dim2=2).log().sum(1)


def mixture_of(dataset: Dataset) -> GaussianMixture | None:
    """Return the data's law if it is a mixture of Gaussians, whose components are the modes that a model has to
    find."""
    law = dataset.law if dataset.mixture is None else dataset.mixture
    return law if isinstance(law, GaussianMixture) else None
