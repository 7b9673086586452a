"""The data's law blurred by noise: its log density and its score, where they are known.

q_sigma = p * N(0, sigma^2 I)
"""

from collections.abc import Callable

from torch import Tensor

from ebm_lab.core.functional import score
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.blurred import blurred


def true_log_prob(dataset: Dataset, sigma: float) -> Callable[[Tensor], Tensor] | None:
    """Return x -> log q_sigma(x) in nats, (B, *shape) -> (B,), or None if it has no formula."""
    if not sigma:
        known = dataset.log_prob(dataset.train[:1])
        return None if known is None else lambda x: _known(dataset.log_prob(x))
    law = None if dataset.law is None else blurred(dataset.law, sigma)
    return None if law is None else lambda x: law.log_prob(x.cpu().double()).to(x.device)


def true_score(dataset: Dataset, sigma: float) -> Callable[[Tensor], Tensor] | None:
    """Return x -> grad_x log q_sigma(x), (B, *shape) -> (B, *shape), or None if it has no formula."""
    log_q = true_log_prob(dataset, sigma)
    if log_q is None or (not sigma and dataset.score(dataset.train[:1]) is None):
        return None
    return (lambda x: score(lambda y: -log_q(y), x)) if sigma else (lambda x: _known(dataset.score(x)))


def _known(value: Tensor | None) -> Tensor:
    assert value is not None, "asked for one point before"
    return value
