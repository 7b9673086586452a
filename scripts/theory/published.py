"""Check signs and factors of the published tutorial (version 2), one number for each, on the line problem.

Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, arXiv:2101.03288.
"""

import math
from typing import NamedTuple

import torch

from ebm_lab.core.functional import energy_and_grad, flat_sum, score, score_and_trace
from ebm_lab.objectives._contrastive import contrast
from ebm_lab.objectives.cnce import shifted_nce
from ebm_lab.objectives.ssm import sliced_score_matching
from ebm_lab.samplers.langevin import langevin_step
from scripts.theory.likelihood import BlurredModel, kl
from scripts.theory.line import LineEnergy, data, fisher, gradient, j_ism, mean, under, with_noise


class Verdict(NamedTuple):
    """The true value of an equation, and the values of its printed and its corrected form."""

    where: str
    truth: float
    printed: float
    corrected: float


def verdicts() -> list[Verdict]:
    energy, (x, p) = LineEnergy(), under(data())
    _, s, trace = score_and_trace(energy, x, 1)
    square = mean(p, 0.5 * flat_sum(s * s))
    s_p = score(lambda y: -data().log_prob(y), x)
    explicit = float(fisher(data(), energy)) - mean(p, 0.5 * flat_sum(s_p**2))
    j, laplacian = float(j_ism(energy, data()).detach()), -mean(p, trace)
    sliced = mean(p, sliced_score_matching(energy, x, torch.ones_like(x), False)[0])

    v = 0.05
    taylor = (mean(p, shifted_nce(energy, x, torch.full_like(x, v))) - 2 * math.log(2)) / v**2

    xx, z, pz = with_noise(x, p)
    e, e_neg = contrast(energy, x, langevin_step(xx, energy_and_grad(energy, xx)[1], z, v))
    cd = -2 / v**2 * float(gradient(energy, (p * e).sum() - (pz * e_neg).sum())[0])
    slope = float(gradient(energy, j_ism(energy, data()))[0])

    t, h = 0.2, 1e-3
    after, before = (kl(data(u**0.5), BlurredModel(energy, u)) for u in (t + h, t - h))
    d_f = float(fisher(data(t**0.5), BlurredModel(energy, t)))
    return [
        Verdict("equation 8, implicit score matching", explicit, square + laplacian, j),
        Verdict("equations 15 and 17, sliced", explicit, square + laplacian, sliced),
        Verdict("section 4.3, CD-1, ascent in a, 2 / eps^2", cd, slope, -slope),
        Verdict("section 4.3, de Bruijn", (after - before) / (2 * h), -0.5 * d_f, -d_f),
        Verdict("section 5.1, Taylor", taylor, 0.25 * (square + laplacian), 0.5 * j),
    ]
