"""log Z from exact samples of a known law p, in any dimension: the data's own, or the base that the energy corrects.

    log w(x) = -E(x) - log p(x),    x_i ~ p:    Z = E_p[w],    log Z = log mean_i w(x_i)
    ess = (sum w)^2 / (n sum w^2)    in (0, 1]: the share of the samples that carries the sum
    KL(p || q) = log Z - E_p[log w],    KL(q || p) = E_p[w log w] / Z - log Z,    q = exp(-E) / Z

Both divergences are estimated from the same weights, if p is the data's law. Mass of q where p has none is missing from
Z: where p covers little of q the weights are uneven, and below FEW of the effective sample size nothing is reported. Of
two laws the one with the larger effective sample size is believed.

Art B. Owen, Monte Carlo Theory, Methods and Examples, 2013, chapter 9 (self-normalised importance sampling).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.core.eval_view import EvalView, Report
from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.base import base_of
from ebm_lab.distributions.quadrature import LogZ
from ebm_lab.evaluation._annealed_importance import effective_sample_size, log_mean_exp

DRAWS, NUMBERS = 50_000, 2**22
"""Exact samples, at most, and the numbers that they may hold together."""
FEW = 0.01
"""Effective samples, as a share of all, below which log Z is not trusted."""

NOT_FINITE = "the energy is not finite at samples of a known law"


class Weighed(NamedTuple):
    """log Z and its jackknife standard error, nats; the effective sample size as a share of the samples; both
    Kullback-Leibler divergences with the standard errors of their estimates, nats."""

    log_z: float
    se: float
    ess: float
    forward: float
    forward_se: float
    reverse: float
    reverse_se: float


def _count(dataset: Dataset) -> int:
    """The number of samples to draw."""
    return max(1000, min(DRAWS, NUMBERS // dataset.mean.numel()))


def exact_samples(dataset: Dataset, generator: Generator) -> Tensor | None:
    """Draw new samples of the data's law, (n, *shape), on the data's device; the held-out points, which no model was
    fitted to, where the law has a density and no sampler; None where nothing is known."""
    if dataset.log_prob(dataset.test[:1]) is None:
        return None
    if dataset.law is None:
        return torch.cat([dataset.val, dataset.test])
    own = torch.Generator().manual_seed(
        int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    )  # the law lives on the CPU
    return dataset.law.sample(_count(dataset), own).to(dataset.train)


def draws_of_base(energy: EnergyFn, dataset: Dataset, generator: Generator) -> Tensor | None:
    """Draw samples of the energy's base, (n, *shape); None if it has none."""
    base = base_of(energy)
    return None if base is None else base.sample(_count(dataset), generator)


@torch.no_grad()
def log_weights(energy: EnergyFn, log_prob: Callable[[Tensor], Tensor | None], x: Tensor) -> Tensor:
    """-E(x) - log p(x), (n, *shape) -> (n,) in float64, for samples x of the law p with this log-density."""
    log_p = in_parts(lambda part: _known(log_prob(part)), x, 4096)
    return -in_parts(partial(evaluate, energy), x, 65_536).double() - log_p.to(x.device)


def weigh(log_w: Tensor) -> Weighed:
    """What the log weights (n,) of exact samples say."""
    value, error = (float(v) for v in log_mean_exp(log_w))
    n, share = len(log_w), log_w.softmax(0)
    carried = torch.where(share > 0, log_w, 0.0)  # 0 log 0 = 0
    forward, reverse = value - log_w.mean(), (share * carried).sum() - value
    forward_terms = (log_w - value).exp() - log_w  # the influence of each sample on the divergence, but for a constant
    reverse_terms = n * share * (carried - value - reverse - 1)
    return Weighed(
        log_z=value,
        se=error,
        ess=float(effective_sample_size(log_w)) / n,
        forward=float(forward),
        forward_se=float(forward_terms.std()) / math.sqrt(n),
        reverse=float(reverse),
        reverse_se=float(reverse_terms.std()) / math.sqrt(n),
    )


def by_importance(view: EvalView, report: Report) -> tuple[LogZ, float]:
    """log Z from exact samples of the truth or of the base, and its standard error; an infinite bound where it is not
    trusted. The report gets what is known of the estimate."""
    energy, dataset, found = view.energy, view.dataset, list[Weighed]()
    if (x := draws_of_base(energy, dataset, view.generator)) is not None:
        found.append(weigh(log_weights(energy, base_of(energy).log_prob, x)))  # type: ignore[union-attr]
    if (x := exact_samples(dataset, view.generator)) is not None:
        found.append(truth := weigh(log_weights(energy, dataset.log_prob, x)))
        if truth.ess >= FEW:
            report.metrics |= {"kl_forward": truth.forward, "kl_forward_se": truth.forward_se}
            report.metrics |= {"kl_reverse": truth.reverse, "kl_reverse_se": truth.reverse_se}
    finite = [weighed for weighed in found if math.isfinite(weighed.log_z)]
    if not finite:
        return LogZ(math.nan, trouble=NOT_FINITE), 0.0
    best = max(finite, key=lambda weighed: weighed.ess)
    return judged(best.log_z, best.se, best.ess, report), best.se


def judged(log_z: float, se: float, ess: float, report: Report) -> LogZ:
    """Return log Z, with an infinite bound where too few samples carry it, and tell the report."""
    report.metrics |= {"log_z_ess": ess, "log_z_se": se}
    if ess >= FEW:
        return LogZ(log_z)
    report.notes.append(
        f"no likelihood: fewer than {FEW:.0%} of the exact samples carry the model's log Z, so that it is not trusted"
    )
    return LogZ(log_z, bound=math.inf)


def _known(log_p: Tensor | None) -> Tensor:
    assert log_p is not None, "the samples are those of a law with a density"
    return log_p.double()
