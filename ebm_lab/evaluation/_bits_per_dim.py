"""Bits per dimension: a negative log-likelihood per coordinate.

    images:  bits/dim = (nll - log |dx / draw|) / (d log 2),    p_raw(raw) = p(x) |dx / draw|
    bits, categories:  bits/dim = nll / (d log 2),    d sites

Pixels are treated as continuous: one grey level is one raw unit. The data sets add no noise within a grey level, so a
model can concentrate its density on the levels, and the number is not a bound on the bits of a lossless code. Discrete
data have probabilities and no density, and there it is the length of such a code.

George Papamakarios, Theo Pavlakou and Iain Murray, Masked Autoregressive Flow for Density Estimation, 2017,
arXiv:1705.07057.
"""

import math

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.interfaces import Dataset

PIXELS = "bits per dimension: grey levels count as continuous, without dequantisation; not a bound on a lossless code"


def has_bits_per_dim(dataset: Dataset) -> bool:
    """Return whether bits per dimension are reported: for images, and for all discrete data."""
    return dataset.bounds is not None or known_sites(dataset) is not None


def bits_notes(dataset: Dataset) -> list[str]:
    """Return what has to be said of bits per dimension, in lines for the user."""
    return [PIXELS] if known_sites(dataset) is None else []


def bits_per_dim(nll: float, dataset: Dataset) -> float:
    """Return bits per dimension, given the nll in nats per sample in model space."""
    sites = known_sites(dataset)
    if sites is not None:
        return nll / (sites.count * math.log(2))
    shape = dataset.event_shape
    log_det = float(dataset.transform.log_det_at(dataset.mean[None]))  # of images, whose map is affine
    return (nll - log_det) / (math.prod(shape) * math.log(2))
