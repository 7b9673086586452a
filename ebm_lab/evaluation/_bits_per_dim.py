"""Bits per dimension: a negative log-likelihood per coordinate, in the units of the raw data.

    bits/dim = (nll - log |dx / draw|) / (d log 2),    p_raw(raw) = p(x) |dx / draw|

Pixels are treated as continuous: one grey level is one raw unit. The data sets add no noise within a grey level, so a
model can concentrate its density on the levels, and the number is not a bound on the bits of a lossless code.

George Papamakarios, Theo Pavlakou and Iain Murray, Masked Autoregressive Flow for Density Estimation, 2017,
arXiv:1705.07057.
"""

import math

from ebm_lab.core.interfaces import Dataset

PIXELS = "bits per dimension: grey levels count as continuous, without dequantisation; not a bound on a lossless code"


def bits_per_dim(nll: float, dataset: Dataset) -> float:
    """Return bits per dimension, given the nll in nats per sample in model space."""
    shape = dataset.event_shape
    log_det = float(dataset.transform.log_det_at(dataset.mean[None]))  # of images, whose map is affine
    return (nll - log_det) / (math.prod(shape) * math.log(2))
