"""Permutation tests: p-values by resampling.

    p = (1 + #{b: T_b >= T}) / (1 + B)

with T_1, ..., T_B the same statistic after B random rearrangements that leave its law unchanged under the null
hypothesis. If they do so exactly, as permuted labels do, P(p <= a) <= a for every a, whatever B.

Belinda Phipson and Gordon Smyth, Permutation P-values Should Never Be Zero, 2010, arXiv:1603.05766.
"""

import torch
from torch import Generator, Tensor


def p_value(value: Tensor, null: Tensor) -> Tensor:
    """Compute p of `value` (...) among `null` (..., B); nan where any of them is not finite."""
    p = (1 + (null >= value.unsqueeze(-1)).sum(-1)).double() / (1 + null.shape[-1])
    known = value.isfinite() & null.isfinite().all(-1)
    return torch.where(known, p, torch.nan)


def labellings(n: int, m: int, times: int, generator: Generator) -> Tensor:
    """Draw (times, n + m) booleans on the generator's device, each row with n true ones in a random order."""
    u = torch.rand(times, n + m, generator=generator, device=generator.device)
    return u.argsort(1) < n


def random_signs(n: int, times: int, generator: Generator) -> Tensor:
    """Draw (times, n) signs +-1 with equal odds, float64, on the generator's device."""
    u = torch.rand(times, n, generator=generator, device=generator.device)
    return 1.0 - 2.0 * (u < 0.5).double()
