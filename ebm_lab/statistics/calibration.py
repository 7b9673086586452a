"""Are predicted probabilities right? Calibration errors, proper scores and temperature scaling.

Probabilities p are (N, K) and labels y are (N,), integers from 0 to K - 1. The confidence of a point is its largest
probability, conf = max_k p_k, and it counts as correct if that class is its label. Bins of equal width divide [0, 1];
each contains its right end, so that a confidence of 1 is in the last one.

Chuan Guo et al., On Calibration of Modern Neural Networks, 2017, sections 2 and 4.2, arXiv:1706.04599.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError


class Reliability(NamedTuple):
    """By bin of the confidence, (bins,) each: counts; and the mean confidence, the share of correct points and the mean
    of conf (1 - conf), which are 0 in an empty bin."""

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    variance: Tensor

    @property
    def shares(self) -> Tensor:
        """The share of the points in each bin, (bins,)."""
        return self.counts / self.counts.sum()

    @property
    def gaps(self) -> Tensor:
        """|accuracy - confidence| of each bin, (bins,); 0 in an empty one."""
        return (self.accuracy - self.confidence).abs()


def _checked(p: Tensor, y: Tensor, what: str = "probabilities") -> tuple[Tensor, Tensor]:
    """Return the rows in float64 with their labels, on the CPU; raise UserError if they do not belong together."""
    p, y = p.detach().cpu().double(), y.cpu()
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(p):
        raise UserError(f"calibration: {what} of shape {tuple(p.shape)} do not belong to labels {tuple(y.shape)}")
    if int(y.min()) < 0 or int(y.max()) >= p.shape[1]:
        raise UserError(
            f"calibration: labels from {int(y.min())} to {int(y.max())}, and {what} of {p.shape[1]} classes"
        )
    if not p.isfinite().all():
        raise UserError(f"calibration: {int((~p.isfinite().all(1)).sum())} of {len(p)} {what} are not finite")
    return p, y


def reliability(p: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """Compute the reliability table of probabilities (N, K) and labels (N,): Guo et al. 2017, section 2, whose bins are
    ((b - 1) / bins, b / bins]."""
    p, y = _checked(p, y)
    confidence, label = p.max(1)
    at = torch.bucketize(confidence, torch.arange(1, bins, dtype=torch.float64) / bins)
    columns = torch.stack(
        [torch.ones_like(confidence), confidence, (label == y).double(), confidence * (1 - confidence)]
    )
    sums = torch.zeros(4, bins, dtype=torch.float64).index_add_(1, at, columns)
    means = sums[1:] / sums[0].clamp_min(1)
    return Reliability(sums[0], means[0], means[1], means[2])


def ece(p: Tensor, y: Tensor, bins: int = 15) -> float:
    """Compute the expected calibration error, sum_b w_b |acc_b - conf_b|, w_b the bin's share of the points: Guo et al.
    2017, equation 3."""
    table = reliability(p, y, bins)
    return float((table.shares * table.gaps).sum())


def ece_floor(p: Tensor, bins: int = 15) -> float:
    """Compute the ECE to be expected of N points if the probabilities (N, K) are right.

        sqrt(2 / (pi N)) sum_b sqrt(w_b v_b)

    v_b is the bin's mean of conf (1 - conf). acc_b - conf_b is then about N(0, v_b / (N w_b)), and the mean of |z| of a
    normal z is sqrt(2 / pi) times its deviation. The ECE of a finite sample is too large by this much, if its model is
    calibrated.
    """
    table = reliability(p, torch.zeros(len(p), dtype=torch.long), bins)
    return math.sqrt(2 / (math.pi * len(p))) * float((table.shares * table.variance.clamp_min(0)).sqrt().sum())


def mce(p: Tensor, y: Tensor, bins: int = 15) -> float:
    """Compute the maximum calibration error, max_b |acc_b - conf_b| over bins with points: Guo et al. 2017, equation
    5."""
    return float(reliability(p, y, bins).gaps.max())


def brier(p: Tensor, y: Tensor) -> float:
    """Compute the Brier score, the mean of sum_k (p_k - [k = y])^2, from 0 (best) to 2.

    Glenn W. Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, equation 2.
    """
    p, y = _checked(p, y)
    return float((p - torch.nn.functional.one_hot(y, p.shape[1])).square().sum(1).mean())


def label_nll(logits: Tensor, y: Tensor) -> float:
    """Compute the mean of -log p_y in nats, of logits (N, K) or log probabilities, which are logits too: Guo et al.
    2017, equation 6. They are logits so that a probability near 0 keeps its logarithm."""
    logits, y = _checked(logits, y, "logits")
    return float(torch.nn.functional.cross_entropy(logits, y))


def fit_temperature(logits: Tensor, y: Tensor) -> float | None:
    """Return the T > 0 that minimises the label_nll of logits / T, logits (N, K); None if there is no such T.

    In b = 1 / T the loss is convex, with the derivative mean_n (sum_k p_nk l_nk - l_ny), p the softmax of b l, whose
    only zero is found by bracketing. There is none if every point's label has the largest logit (the loss falls as T
    falls to 0), or if the logits say no more, or less, than uniform probabilities do (it falls as T grows). Guo et al.
    2017, section 4.2.
    """
    from scipy.optimize import brentq

    logits, y = _checked(logits, y, "logits")
    margins = logits - logits.gather(1, y[:, None])
    unit = float(margins.abs().max())

    def slope(log_b: float) -> float:
        return float(((margins * (math.exp(log_b) / unit)).softmax(1) * margins).sum(1).mean())

    low, high = -30.0, 30.0
    if unit == 0 or not slope(low) < 0 < slope(high):
        return None
    return unit * math.exp(-float(brentq(slope, low, high, xtol=1e-12)))  # type: ignore[arg-type]
