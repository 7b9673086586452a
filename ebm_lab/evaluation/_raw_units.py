"""Likelihoods and densities in the units of the raw data:  log p_raw(raw) = log p(x) + log |dx / draw|.

Gaps between two densities are the same in all units. Images have bits per dimension instead (_bits_per_dim.py).
"""

import torch
from torch import Tensor

from ebm_lab.core.features import features_of
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.transforms import Affine
from ebm_lab.distributions.quadrature import framed_log_density


def has_raw_units(dataset: Dataset) -> bool:
    """Say whether the model sees points in other units than those of the raw data; discrete data have none."""
    if "continuous" not in features_of(dataset):
        return False
    t = dataset.transform
    same = isinstance(t, Affine) and bool((t.shift == 0).all()) and bool((t.scale == 1).all())
    return dataset.bounds is None and not same


def raw_twin(name: str, nll: float, dataset: Dataset, x: Tensor) -> dict[str, float]:
    """{<name>_raw: nll - E log |dx / draw|} for the nll in nats of points x (B, *shape) in model space; nothing where
    that is the same."""
    if not has_raw_units(dataset):
        return {}
    return {f"{name}_raw": nll - float(dataset.transform.log_det_at(x).mean())}


def raw_points(x: Tensor, dataset: Dataset) -> Tensor:
    """The raw points of x (B, *shape) in model space, without those that float64 can't hold; x itself where the units
    are the same."""
    if not has_raw_units(dataset):
        return x
    raw = dataset.transform.inverse(x.double().cpu()).double()
    return raw[raw.isfinite().flatten(1).all(1)]


def central(x: Tensor) -> Tensor:
    """Return the points of x (n, d) whose coordinates all lie between the 0.5 and the 99.5 % quantile.

    A few far points then do not shrink the picture of all others. Returns x itself if there are no such points.
    """
    low, high = torch.quantile(x.double(), torch.tensor([0.005, 0.995], dtype=torch.float64), 0)
    inside = ((x >= low) & (x <= high)).all(1)
    return x[inside] if bool(inside.any()) else x


@torch.no_grad()
def raw_densities(
    energy: EnergyFn, dataset: Dataset, x: Tensor, cells: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Compute what a picture of a density in one or two raw dimensions shows: nodes (N, d) of a grid around the points
    x (n, d) of the data, the log density in nats of the model and, where it is known, of the truth there, (N,), and the
    raw points of x."""
    if not has_raw_units(dataset):
        nodes, log_p, _ = framed_log_density(energy, x, cells)
        return nodes, log_p, dataset.log_prob(nodes), x
    transform = dataset.transform

    def raw_energy(raw: Tensor) -> Tensor:
        z = transform.forward(raw.double())
        return evaluate(energy, z.to(dataset.mean)).double().cpu() - transform.log_det_at(z)

    raw = raw_points(x, dataset)
    log_z = framed_log_density(energy, x, cells)[
        2
    ]  # Z is the same in all units, and a narrow law fills a grid only here
    nodes, log_p, _ = framed_log_density(raw_energy, central(raw), cells, log_z.cpu())
    z = transform.forward(nodes.double())
    truth = dataset.log_prob(z)
    return nodes, log_p, None if truth is None else truth.double().cpu() + transform.log_det_at(z), raw
