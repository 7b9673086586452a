"""The baseline for images: a mixture of full-covariance Gaussians on the data's first principal components.

    x = clamp(mean + B u),    u ~ sum_k w_k N(m_k, S_k)

with B the leading eigenvectors of the training covariance. The other directions are omitted: samples are a little too
smooth, but adding the rest as noise would make them worse. An energy-based model of images that does not beat this
baseline has learnt no more than second moments per cluster.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.files import Kept, cache
from ebm_lab.core.identity import identity_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.mixture import GaussianMixture


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """`components` Gaussians on `dimensions` principal components, fitted by at most `iterations` of EM; `ridge` is
    added to the diagonals of the covariances; `seed` is that of the k-means start."""

    components: PositiveInt
    dimensions: PositiveInt
    iterations: PositiveInt
    ridge: PositiveFloat
    seed: NonNegativeInt


@dataclass(frozen=True)
class PrincipalMixture:
    """The fitted baseline: mean (d,), basis (k, d), the mixture of u (k,), and the shape and bounds of the images."""

    mean: Tensor
    basis: Tensor
    law: GaussianMixture
    shape: tuple[int, ...]
    bounds: tuple[float, float]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n images, (n, *shape), clamped to the bounds."""
        u = torch.cat([self.law.sample(min(1000, n - i), generator) for i in range(0, n, 1000)])
        return (self.mean + u @ self.basis).float().clamp(*self.bounds).view(n, *self.shape)


def fit(x: Tensor, settings: MixtureSettings) -> dict[str, Any]:
    """Fit the mixture to images x (n, *shape), and return its parameters as float64 tensors."""
    import warnings

    import sklearn.mixture
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    flat = x.flatten(1).cpu().double().numpy()
    principal = PCA(min(settings.dimensions, *flat.shape), random_state=settings.seed)
    mixture = sklearn.mixture.GaussianMixture(
        min(settings.components, len(flat)),
        max_iter=settings.iterations,
        reg_covar=settings.ridge,
        random_state=settings.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(principal.fit_transform(flat))
    found = {"mean": principal.mean_, "basis": principal.components_, "weights": mixture.weights_}
    found |= {"means": mixture.means_, "covariances": mixture.covariances_}
    return {name: torch.as_tensor(value) for name, value in found.items()}


def principal_mixture(dataset: Dataset, settings: MixtureSettings, folder: Path) -> tuple[PrincipalMixture, Kept]:
    """Return the data set's mixture, read from its file in `folder`, or else fitted and saved there."""
    assert dataset.bounds is not None
    identity = {**identity_of(dataset), **asdict(settings)}
    name = f"{type(dataset).__name__.lower()}_mixture"
    kept = cache(folder, name, identity, lambda: fit(dataset.train, settings))
    p = {name: tensor.to(dataset.train.device) for name, tensor in kept.content.items()}
    law = GaussianMixture(p["weights"], p["means"], covariances=p["covariances"])
    return PrincipalMixture(p["mean"], p["basis"], law, dataset.event_shape, dataset.bounds), kept
