"""Models of the data at many noise levels, q_sigma = p * N(0, sigma^2 I): energies E(x, sigma) and scores s(x, sigma).

    base:  N(mean, v^2 I),    v^2 = sigma^2 + scale^2
    -log density of the base:  |x - mean|^2 / (2 v^2) + d log v + d/2 log 2 pi

With the training data's mean and scale the base is close to q_sigma for large sigma, and it makes Z exist at every
level; a network learns the rest. An energy of many levels is a plain energy at its lowest level: `forward(x)` is
E(x, sigma_min). A score network has a score and no energy.

Yang Song and Stefano Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, section 4,
arXiv:1907.05600.
"""

import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Part, features_of
from ebm_lab.core.functional import EnergyFn, evaluate, flat_sum, in_parts, level_gradients, per_sample, score
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.model import Model
from ebm_lab.core.random import stream
from ebm_lab.core.twice import mixed_precision
from ebm_lab.distributions.base import BaseLaw
from ebm_lab.distributions.elementary import Distribution, IsotropicGaussian
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.base import Based
from ebm_lab.models.ladder import Ladder, Sigma, make_ladder


class NoiseLevels(Part, Model, ABC):
    """A model of every level of its `ladder`. `sigma` is a float or (B,), one level per sample, in data units; None
    means the lowest level."""

    offers = frozenset({"score", "smooth", "levels"})

    mean: Tensor

    def __init__(self, dataset: Dataset, sigma_min: Sigma, sigma_max: Sigma, levels: int) -> None:
        super().__init__()
        self.ladder: Ladder
        self.notes: list[str] = []
        """Lines for the user, printed once at the start of a run."""
        self.ladder, self.resolved = make_ladder(dataset, sigma_min, sigma_max, levels, self.notes)
        self.register_buffer("mean", dataset.mean.clone())
        self.scale = dataset.scale

    @abstractmethod
    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        """Compute grad_x log q_sigma(x), (B, *shape) -> (B, *shape); None is the lowest level.

        Detached unless `create_graph`.
        """

    def prior(self, sigma: float | None = None) -> Distribution:
        """Return the base at a high level, sigma_max for None, which is nearly q_sigma."""
        return IsotropicGaussian(self.mean, math.hypot(sigma or self.ladder.sigma_max, self.scale))

    def inputs(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return (u, sigma, v): u = (x - mean) / v, (B, *shape); sigma and v, (B,), or (1,) if all samples share one
        level."""
        known = isinstance(sigma, Tensor)
        sigma = sigma.reshape(-1) if known else torch.full((1,), sigma, dtype=x.dtype, device=x.device)
        v = (sigma**2 + self.scale**2).sqrt()
        return (x - self.mean) / per_sample(v, x), sigma, v


class NoiseEnergy(NoiseLevels, Based):
    """E(x, sigma) = base + `correction`, in nats. base `none`: the one above; else a law fitted to the data, blurred
    along with the level, and `correction` bounded far out (models/base.py)."""

    offers = NoiseLevels.offers | Energy.offers

    def __init__(
        self, dataset: Dataset, sigma_min: Sigma, sigma_max: Sigma, levels: int, base: BaseName = "none"
    ) -> None:
        super().__init__(dataset, sigma_min, sigma_max, levels)
        self.build_base(dataset, base, levels=True)
        if self.law is not None:
            self.law.level = self.ladder.sigma_min

    def prior(self, sigma: float | None = None) -> Distribution:
        return super().prior(sigma) if self.law is None else BaseLaw(self.law, sigma or self.ladder.sigma_max)

    def outputs(self, dataset: Dataset) -> int:
        """Return the number of outputs of the network's last layer."""
        return 1

    @abstractmethod
    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Compute the network's part at u = (x - mean) / v (B, *shape) and sigma (B,) or (1,): (B,), growing more
        slowly than |u|^2."""

    def anchored(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the base's part of the energy, (B,), and what the network sees: u (B, *shape), and sigma."""
        u, sigma, v = self.inputs(x, sigma)
        if self.law is not None and self.bound is not None:
            return self.law(x, sigma), self.bound(u), sigma
        d = self.mean.numel()
        return 0.5 * flat_sum(u * u) + d * (v.log() + 0.5 * math.log(2 * math.pi)), u, sigma

    def base_gradient(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the base's part of the energy, (B,), and its gradient in x, (B, *shape)."""
        if self.law is not None:
            return self.law.with_gradient(x, sigma)
        base, u, sigma = self.anchored(x, sigma)
        return base, u / per_sample((sigma**2 + self.scale**2).sqrt(), x)

    def base_rate(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return d base / d log sigma, (B,), for sigma (B,): (sigma / v)^2 (d - |u|^2) without a fitted law."""
        if self.law is None:
            u, sigma, v = self.inputs(x, sigma)
            return (sigma / v) ** 2 * (self.mean.numel() - flat_sum(u * u))
        return self.law.rate(x, sigma)

    def level_gradients(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute E(x, sigma), (B,), grad_x E, (B, *shape), and dE / d log sigma, (B,), with a graph to the parameters;
        sigma (B,)."""
        known = None if mixed_precision() else self.known_rates(x, sigma)
        return level_gradients(self.energy, x, sigma) if known is None else known

    def known_rates(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return what `level_gradients` does, or None if there is no formula for it."""
        return None

    def energy(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Compute E(x, sigma), (B, *shape) -> (B,)."""
        base, u, sigma = self.anchored(x, sigma)
        return base + self.correction(u, sigma)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        return self.energy(x, self.ladder.sigma_min if sigma is None else sigma)

    def at(self, sigma: Tensor | float) -> Model:
        """Return `given(sigma=sigma)`: the name of earlier versions."""
        return self.given(sigma=sigma.squeeze() if isinstance(sigma, Tensor) and sigma.numel() == 1 else sigma)

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        return score(self.given(sigma=sigma), x, create_graph)


PART = 1024
"""Draws at a time for log Z at the top, so that large networks need little memory."""


@torch.no_grad()
def log_z_at_the_top(model: NoiseEnergy, draws: int = 20_000) -> Tensor:
    """Return log Z of E(x, sigma_max) in nats, 0-d: log E[exp(-E(x, sigma_max)) / prior(x)], x from the prior.

    The data blurred by sigma_max are nearly the prior, so that the ratio is nearly constant and its mean over the same
    `draws` every time has an error of std / sqrt(draws).
    """
    law = model.prior()
    x = law.sample(draws, stream(0, "log_z_at_the_top", 0, model.mean.device))
    energy = model.given(sigma=model.ladder.sigma_max)
    log_ratio = -in_parts(lambda part: evaluate(energy, part), x, PART) - law.log_prob(x)
    return log_ratio.double().logsumexp(0) - math.log(draws)


class ScoreNetwork(NoiseLevels):
    """s(x, sigma) = -(x - mean) / v^2 + scale / (sigma v) F(u, sigma): the base's score, and a network F whose target
    has about unit variance at every level.

    Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, section 5,
    arXiv:2206.00364.
    """

    @abstractmethod
    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Compute F at u (B, *shape) and sigma (B,) or (1,): (B, *shape)."""

    def score(self, x: Tensor, sigma: Tensor | float | None = None, create_graph: bool = False) -> Tensor:
        sigma = self.ladder.sigma_min if sigma is None else sigma
        with torch.set_grad_enabled(create_graph):
            u, sigma, v = self.inputs(x, self.ladder.sigma_min if sigma is None else sigma)
            return (per_sample(self.scale / sigma, x) * self.correction(u, sigma) - u) / per_sample(v, x)

    def forward(self, x: Tensor) -> Tensor:
        raise UserError("a score network has a score at every noise level and no energy")


def tweedie(model: NoiseLevels, x: Tensor, sigma: float) -> Tensor:
    """Compute E[x_0 | x_0 + sigma z = x] = x + sigma^2 s(x, sigma), (B, *shape).

    Bradley Efron, Tweedie's Formula and Selection Bias, 2011, equation 2.
    """
    return x + sigma**2 * model.score(x, sigma)


def data_score(model: EnergyFn, x: Tensor, create_graph: bool = False) -> Tensor:
    """Compute the model's score of the data, (B, *shape): -grad E, at the lowest level if there are many.

    Detached unless `create_graph`.
    """
    if "levels" in features_of(model):
        levels = cast(NoiseLevels, model)
        return levels.score(x, levels.ladder.sigma_min, create_graph)
    return score(model, x, create_graph)


def require_images(dataset: Dataset, name: str) -> tuple[int, int, int]:
    """Return (C, H, W) of the data set's samples; if they are not images, raise UserError and suggest another
    energy."""
    shape = dataset.event_shape
    if len(shape) != 3:
        kind = name.partition("_")[0]
        instead = (
            f"energy={kind}_mlp, the energy=mlp of many noise levels" if kind in ("noise", "score") else "energy=mlp"
        )
        raise UserError(
            f"energy={name}: needs images (C, H, W), and the data set's samples have shape {shape}: choose {instead}"
        )
    return shape[0], shape[1], shape[2]
