"""Small pieces that tests share: Gaussian data and energies whose every answer is known."""

from typing import Any

import torch
from torch import Generator, Tensor

from ebm_lab.core.choice import Choice
from ebm_lab.core.interfaces import Dataset, Sampler
from ebm_lab.core.registry import find
from ebm_lab.energies.gaussian import Gaussian
from ebm_lab.runs.compatibility import faults


class Points(Dataset):
    """A data set of given points, all three splits alike."""

    def __init__(self, x: Tensor, bounds: tuple[float, float] | None = None) -> None:
        self.train = self.val = self.test = x
        self.bounds = bounds


class Discrete(Points):
    """A data set of given bits, or of categories that are one-hot along the first axis of a point."""

    def __init__(self, x: Tensor, one_hot: bool = False) -> None:
        super().__init__(x)
        self.space = "categorical" if one_hot else "binary"


def covariance(d: int, generator: Generator) -> Tensor:
    """A well-conditioned random covariance, (d, d) in float64."""
    a = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return a @ a.T + 0.5 * torch.eye(d, dtype=torch.float64)


def exact_sample(mean: Tensor, cov: Tensor, n: int, generator: Generator) -> Tensor:
    """n points, (n, d), whose sample mean and (1/n) covariance are `mean` and `cov` exactly."""
    z = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / n), z.T, upper=False).T
    return mean + z @ torch.linalg.cholesky(cov).T


def gaussian_energy(mean: Tensor, precision: Tensor) -> Gaussian:
    """E = 1/2 (x - mean)' P (x - mean) with the given values, in float64."""
    energy = Gaussian(Points(torch.stack([mean - 1, mean + 1])), width=1.0).double()
    with torch.no_grad():
        energy.mean.copy_(mean)
        energy.factor.copy_(torch.linalg.cholesky(precision))
    return energy


def factor_gradient(grad_precision: Tensor, factor: Tensor) -> Tensor:
    """dL/dL for P = L L' from the symmetric dL/dP: tril(2 dL/dP L)."""
    return (2 * grad_precision @ factor).tril()


def faults_of(data: Dataset, built: dict[str, object] | None = None, temperature: float = 1.0, **run: Any) -> list[str]:
    """What does not fit in a run of these components, each a name or a name and its settings: lines for the user."""
    pairs = {kind: (chosen, {}) if isinstance(chosen, str) else chosen for kind, chosen in run.items()}
    choices = {kind: Choice(kind, name, kind, find(kind, name), values) for kind, (name, values) in pairs.items()}
    return list(dict.fromkeys(faults(choices, data, temperature, built)))


class Drift(Sampler):
    """A sampler that adds `step` to every coordinate, so that a chain's position counts its visits."""

    steps = 3

    def __init__(self, step: float = 1.0) -> None:
        self.step = step

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        from ebm_lab.core.interfaces import Chain

        return Chain(x + self.step, {}, {}, 0)


class Exact(Sampler):
    """A sampler that draws from a Gaussian exactly, whatever the chains' state."""

    steps = 1

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        self.mean, self.factor = mean, torch.linalg.cholesky(cov)

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        from ebm_lab.core.interfaces import Chain

        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return Chain(self.mean + z @ self.factor.T, {}, {}, 0)
