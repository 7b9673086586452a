"""The base of an energy: a law fitted to the training data, on which a network builds.

    E(x) = -log base(x) + f(x),    or at a noise level  E(x, sigma) = -log base_sigma(x) + f(x, sigma)

mixture:  base(x) = sum_k w_k N(x; m_k, S_k),    base_sigma: the same with S_k + sigma^2 I, the law of x + sigma z
student:  base(x) = c (1 + q / nu)^(-(nu + d) / 2),    q = (x - m)' S^-1 (x - m)

A Gaussian is a mixture of one. Covariances are kept by their eigenvectors Q and variances lambda, so that a blur adds
to lambda alone. With the odds r_k(x) and the pulls g_k = S_k^-1 (x - m_k), the mixture has

    -grad log base = sum_k r_k g_k
    -v' Hess v = sum_k r_k v' S_k^-1 v - sum_k r_k (g_k . v - sum_j r_j g_j . v)^2
    -d log base_sigma / d log sigma = sigma^2 sum_k r_k (tr (S_k + sigma^2 I)^-1 - |(S_k + sigma^2 I)^-1 (x - m_k)|^2)

and the Student law, with c = (nu + d) / (nu + q) and g = S^-1 (x - m):

    -grad log base = c g,    -v' Hess v = c (v' S^-1 v - 2 (g . v)^2 / (nu + q))
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError

Sigma = Tensor | float


class Base(nn.Module, ABC):
    """A law on (*shape), whose parameters are buffers. `level`: the noise level at which it is taken where a method is
    not told another, in data units; 0: the law as it was fitted."""

    blurs: bool = True
    """Whether the law has noise levels."""
    grows: tuple[str, ...] = ()
    """Buffers whose first size is a number that was chosen by fitting: a checkpoint brings its own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.level = shape, 0.0

    @property
    def dimensions(self) -> int:
        return math.prod(self.shape)

    @abstractmethod
    def forward(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        """Compute -log base_sigma(x) in nats, (B, *shape) -> (B,), for a level sigma or one per sample (B,)."""

    @abstractmethod
    def with_gradient(self, x: Tensor, sigma: Sigma | None = None) -> tuple[Tensor, Tensor]:
        """Return -log base_sigma, (B,), and its gradient, (B, *shape)."""

    def rate(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Compute -d log base_sigma / d log sigma, (B,), for levels sigma (B,); 0 for a law without levels."""
        return x.new_zeros(len(x))

    @abstractmethod
    def curvature(self, x: Tensor, v: Tensor) -> Tensor:
        """Compute -sum_k v_k' (Hess log base) v_k, (B,), for v (K, B, *shape)."""

    @abstractmethod
    def sample(self, n: int, generator: Generator, sigma: float | None = None) -> Tensor:
        """Draw n samples of base_sigma, (n, *shape)."""

    @abstractmethod
    def in_words(self) -> str:
        """Say which law it is, in some words."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in self.grows:
            mine, theirs = getattr(self, name), state_dict.get(prefix + name)
            if theirs is not None and theirs.shape[1:] == mine.shape[1:] and len(theirs) != len(mine):
                setattr(self, name, mine.new_zeros(theirs.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class MixtureBase(Base):
    """A mixture of K Gaussians. weights (K,), means (K, d), axes (K, d, d) whose columns are the eigenvectors, None for
    the coordinate axes; variances (K, d) along them."""

    log_weights: Tensor
    means: Tensor
    axes: Tensor | None
    variances: Tensor
    grows = ("log_weights", "means", "axes", "variances")

    def __init__(
        self, shape: tuple[int, ...], weights: Tensor, means: Tensor, axes: Tensor | None, variances: Tensor
    ) -> None:
        super().__init__(shape)
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)
        if axes is None:
            self.grows = tuple(name for name in self.grows if name != "axes")

    def _along(self, x: Tensor, sigma: Sigma | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return y = Q_k' (x - m_k), (K, B, d), the variances along it, which broadcast against y, and
        log w_k N(x; m_k, S_k), (K, B)."""
        y = self._turned(x.flatten(1) - self.means[:, None])
        sigma = self.level if sigma is None else sigma
        square = sigma.reshape(-1, 1) ** 2 if isinstance(sigma, Tensor) else sigma**2
        variances = self.variances[:, None] + square
        log_z = 0.5 * variances.log().sum(-1) + 0.5 * self.dimensions * math.log(2 * math.pi)
        return y, variances, self.log_weights[:, None] - log_z - 0.5 * (y * y / variances).sum(-1)

    def _turned(self, u: Tensor) -> Tensor:
        """Return Q_k' u_k for u (K, n, d)."""
        return u if self.axes is None else u @ self.axes

    def forward(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        return -self._along(x, sigma)[2].logsumexp(0)

    def with_gradient(self, x: Tensor, sigma: Sigma | None = None) -> tuple[Tensor, Tensor]:
        y, variances, logits = self._along(x, sigma)
        pull = logits.softmax(0)[..., None] * (y / variances)
        pull = pull if self.axes is None else pull @ self.axes.mT
        return -logits.logsumexp(0), pull.sum(0).view(x.shape)

    def rate(self, x: Tensor, sigma: Tensor) -> Tensor:
        y, variances, logits = self._along(x, sigma)
        stiff = 1 / variances
        return sigma**2 * (logits.softmax(0) * (stiff - (y * stiff) ** 2).sum(-1)).sum(0)

    def curvature(self, x: Tensor, v: Tensor) -> Tensor:
        y, variances, logits = self._along(x, None)
        odds = logits.softmax(0)[:, None]
        u = self._turned(v.reshape(1, -1, self.dimensions).expand(len(y), -1, -1))
        u = u.view(len(y), len(v), len(x), -1)
        stiff, along = (u * u / variances[:, None]).sum(-1), (u * (y / variances)[:, None]).sum(-1)  # (K, M, B)
        spread = along - (odds * along).sum(0)
        return (odds * (stiff - spread * spread)).sum((0, 1))

    def sample(self, n: int, generator: Generator, sigma: float | None = None) -> Tensor:
        means, square = self.means, (self.level if sigma is None else sigma) ** 2
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.empty(n, self.dimensions, dtype=means.dtype, device=means.device).normal_(generator=generator)
        noise = (self.variances + square).sqrt()[:, None] * z
        noise = noise if self.axes is None else noise @ self.axes.mT
        return (means[which] + noise[which, torch.arange(n, device=z.device)]).view(n, *self.shape)

    def in_words(self) -> str:
        return "a Gaussian" if len(self.means) == 1 else f"a mixture of {len(self.means)} Gaussians"


class StudentBase(Base):
    """A multivariate Student law: mean (d,), axes (d, d) and variances (d,) of its scatter S, and nu degrees of
    freedom. It has no noise levels, since its blur is no Student law."""

    blurs = False
    mean: Tensor
    axes: Tensor
    variances: Tensor
    nu: Tensor

    def __init__(self, shape: tuple[int, ...], mean: Tensor, axes: Tensor, variances: Tensor, nu: Tensor) -> None:
        super().__init__(shape)
        for name, value in {"mean": mean, "axes": axes, "variances": variances, "nu": nu}.items():
            self.register_buffer(name, value)

    def _along(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return S^-1/2 (x - m) along the axes, (B, d), and q, (B,)."""
        z = (x.flatten(1) - self.mean) @ self.axes / self.variances.sqrt()
        return z, z.square().sum(1)

    def forward(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        return self._value(self._along(x)[1])

    def _value(self, q: Tensor) -> Tensor:
        nu, d = self.nu.double(), self.dimensions
        log_z = torch.lgamma(nu / 2) - torch.lgamma((nu + d) / 2) + 0.5 * d * (nu * math.pi).log()
        log_z = (log_z + 0.5 * self.variances.double().log().sum()).to(q)
        return log_z + 0.5 * (self.nu + d) * torch.log1p(q / self.nu)

    def with_gradient(self, x: Tensor, sigma: Sigma | None = None) -> tuple[Tensor, Tensor]:
        z, q = self._along(x)
        pull = ((self.nu + self.dimensions) / (self.nu + q))[:, None] * z
        return self._value(q), ((pull / self.variances.sqrt()) @ self.axes.mT).view(x.shape)

    def curvature(self, x: Tensor, v: Tensor) -> Tensor:
        z, q = self._along(x)
        u = v.flatten(2) @ self.axes / self.variances.sqrt()  # (M, B, d)
        bend = u.square().sum(-1) - 2 * (u * z).sum(-1) ** 2 / (self.nu + q)
        return (self.nu + self.dimensions) / (self.nu + q) * bend.sum(0)

    def sample(self, n: int, generator: Generator, sigma: float | None = None) -> Tensor:
        """m + S^1/2 z / sqrt(g / nu), with z ~ N(0, I) and g a chi-squared number of nu degrees of freedom."""
        z = torch.empty(n, self.dimensions, dtype=self.mean.dtype, device=self.mean.device).normal_(generator=generator)
        half_g = torch._standard_gamma((0.5 * self.nu).expand(n), generator=generator)
        z = z * (0.5 * self.nu / half_g).sqrt()[:, None] * self.variances.sqrt()
        return (self.mean + z @ self.axes.mT).view(n, *self.shape)

    def in_words(self) -> str:
        return f"a Student law of {float(self.nu):.3g} degrees of freedom"


class BaseLaw:
    """A base as a plain law, at the level `sigma`, None: its own. An objective that holds it does not register the
    base's buffers a second time."""

    def __init__(self, base: Base, sigma: float | None = None) -> None:
        self.base, self.sigma = base, sigma

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log base(x) in nats, (B, *shape) -> (B,)."""
        return -self.base(x, self.sigma)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n samples, (n, *shape)."""
        return self.base.sample(n, generator, self.sigma)

    def blurred(self, std: float) -> "BaseLaw":
        """Return the law of x + std z. Raises UserError for a Student law, whose blur is none."""
        if not self.base.blurs:
            raise UserError(
                "energy.base=student: its blur is not a Student law; choose energy.base=mixture or no data_noise"
            )
        return BaseLaw(self.base, math.hypot(self.base.level if self.sigma is None else self.sigma, std))


def base_of(energy: object) -> BaseLaw | None:
    """Return the base that an energy builds on; None if it has none."""
    return getattr(energy, "base", None)
