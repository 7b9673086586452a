"""Distances between two histograms of shares: KL(p || q) = sum p log(p / q), and 1/2 sum |p - q|."""

import torch
from torch import Tensor


def kl(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q) in nats of two histograms (K,) that sum to 1; q must be positive."""
    return float(torch.special.xlogy(p, p / q).sum())


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return 1/2 sum |p - q| of two histograms (K,): the weight that is in the wrong bins."""
    return 0.5 * float((p - q).abs().sum())
