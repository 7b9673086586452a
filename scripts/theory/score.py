"""Identities of score matching, the limit of other objectives when their noise is small or averaged out.

Tolerances: an error c x^2 (1 + O(x^2)) measured down to x = .05 gives a fitted slope within 0.1 of 2; exact rows are
held to float64 and the trapezoid rule, 1e-9.
"""

import math

import torch

from ebm_lab.core.functional import flat_sum, score
from ebm_lab.objectives.cnce import conditional_nce, shifted_nce
from ebm_lab.objectives.dsm import denoising_score_matching
from ebm_lab.objectives.ed import energy_discrepancy
from ebm_lab.objectives.fdssm import finite_difference_ssm
from ebm_lab.objectives.mpf import minimum_probability_flow
from ebm_lab.objectives.sm import implicit_score_matching
from ebm_lab.objectives.ssm import projections, sliced_score_matching
from scripts.theory.line import (
    THETA,
    Identity,
    LineEnergy,
    data,
    fisher,
    identity,
    j_ism,
    mean,
    measure,
    normal_nodes,
    under,
    with_noise,
)

SMALL = (0.4, 0.2, 0.1, 0.05)


def scaled(factor: float) -> LineEnergy:
    return LineEnergy([factor * t for t in THETA])


@identity
def implicit_is_explicit() -> Identity:
    x, p = under(data())
    constant = (p * 0.5 * flat_sum(score(lambda y: -data().log_prob(y), x) ** 2)).sum()

    def error(factor: float) -> float:
        energy = scaled(factor)
        return float(abs(j_ism(energy, data()).detach() - (fisher(data(), energy) - constant)))

    equation = r"$E_p[\frac{1}{2}|s|^2 + \mathrm{tr}\,\nabla s] = D_F - \frac{1}{2}E_p|s_p|^2$"
    xs, errors = measure(error, (0.5, 1.0, 1.5, 2.0))
    return Identity(
        1, "implicit = explicit", equation, "objectives/sm.py", r"factor on $\theta$", xs, errors, None, 1e-9
    )


@identity
def shifted_data_nce() -> Identity:
    energy, (x, p) = LineEnergy(), under(data())
    half = float(j_ism(energy, data()).detach()) / 2

    def error(v: float) -> float:
        values = shifted_nce(energy, x, torch.full_like(x, v))
        return abs((mean(p, values) - 2 * math.log(2)) / v**2 - half)

    equation = r"$(L_\mathrm{shift} - 2\log 2)/v^2 \to \frac{1}{2} J$"
    return Identity(3, "shifted-data NCE", equation, "objectives/cnce.py", "v", *measure(error, SMALL), 2.0, 0.1)


@identity
def conditional_nce_is_score_matching() -> Identity:
    energy, (x, z, p) = LineEnergy(), with_noise(*under(data()))
    half = float(j_ism(energy, data()).detach()) / 2

    def error(sigma: float) -> float:
        values = conditional_nce(energy, x, x + sigma * z, 0.0)[0]
        return abs((mean(p, values) - 2 * math.log(2)) / sigma**2 - half)

    equation = r"$(L_\mathrm{CNCE} - 2\log 2)/\sigma^2 \to \frac{1}{2} J$"
    return Identity(4, "conditional NCE", equation, "objectives/cnce.py", r"$\sigma$", *measure(error, SMALL), 2.0, 0.1)


@identity
def probability_flow_is_score_matching() -> Identity:
    energy, (x, z, p) = LineEnergy(), with_noise(*under(data()))
    whole = float(j_ism(energy, data()).detach())

    def error(sigma: float) -> float:
        values = minimum_probability_flow(energy, x, x + sigma * z, 0.0)[0]
        return abs(4 * (mean(p, values) - 1) / sigma**2 - whole)

    equation = r"$4\,(K_\mathrm{MPF} - 1)/\sigma^2 \to J$"
    xs, errors = measure(error, SMALL)
    return Identity(5, "minimum probability flow", equation, "objectives/mpf.py", r"$\sigma$", xs, errors, 2.0, 0.1)


@identity
def denoising_is_the_blurred_score() -> Identity:
    sigma, (x, z, p) = 0.5, with_noise(*under(data()))
    blurred = data(sigma)
    y, q = under(blurred)
    constant = 1 / (2 * sigma**2) - float((q * 0.5 * flat_sum(score(lambda u: -blurred.log_prob(u), y) ** 2)).sum())

    def error(factor: float) -> float:
        energy = scaled(factor)
        dsm = mean(p, denoising_score_matching(energy, x, z, sigma)[0]) / sigma**2
        return abs(dsm - float(fisher(blurred, energy)) - constant)

    equation = (
        r"$L_\mathrm{DSM} - D_F(q_\sigma\Vert p_\theta) = \frac{d}{2\sigma^2} - \frac{1}{2}E|\nabla\log q_\sigma|^2$"
    )
    xs, errors = measure(error, (0.5, 1.0, 1.5, 2.0))
    return Identity(6, "denoising", equation, "objectives/dsm.py", r"factor on $\theta$", xs, errors, None, 1e-9)


@identity
def sliced_is_implicit() -> Identity:
    """256 averages over n projections at one point: their root mean square error falls as n^(-1/2), within 4.4 %."""
    energy, generator = LineEnergy(), torch.Generator().manual_seed(0)
    point = torch.full((1, 1), 0.7, dtype=torch.float64)
    exact = implicit_score_matching(energy, point, chunk=1)[0].detach()

    def error(n: float) -> float:
        x = point.expand(256 * int(n), 1)
        values = sliced_score_matching(energy, x, projections(x, "gaussian", generator), False)[0].detach()
        return float((values.view(256, -1).mean(1) - exact).square().mean().sqrt())

    equation = r"$E_v[\frac{1}{2}(v\cdot s)^2 + v^\top(\nabla s)v] = J$"
    xs, errors = measure(error, (4, 16, 64, 256))
    return Identity(7, "sliced", equation, "objectives/ssm.py", "n projections", xs, errors, -0.5, 0.06)


@identity
def finite_differences_are_sliced() -> Identity:
    energy, (x, p) = LineEnergy(), under(data())
    sliced = mean(p, sliced_score_matching(energy, x, torch.ones_like(x), False)[0])

    def error(eps: float) -> float:
        return abs(mean(p, finite_difference_ssm(energy, x, torch.full_like(x, eps), False)[0]) - sliced)

    equation = r"$\frac{d}{\epsilon^2}\{\frac{1}{8}[E_+ - E_-]^2 - [E_+ + E_- - 2E]\} \to L_\mathrm{SSM}$"
    xs, errors = measure(error, (0.1, 0.05, 0.025, 0.0125))
    return Identity(8, "finite differences", equation, "objectives/fdssm.py", r"$\epsilon$", xs, errors, 2.0, 0.1)


@identity
def energy_discrepancy_is_score_matching() -> Identity:
    energy, (x, p) = LineEnergy(), under(data(), 1001)
    whole, (z, q) = float(j_ism(energy, data()).detach()), normal_nodes(32)

    def error(t: float) -> float:
        total = 0.0
        for xi, weight in zip(z.tolist(), q.tolist(), strict=True):
            around = x + t**0.5 * xi + t**0.5 * z[:, None, None]
            total += weight * mean(p, energy_discrepancy(energy, x, around, 0.0, q.log())[0])
        return abs(total / t - whole)

    xs, errors = measure(error, (0.1, 0.05, 0.025, 0.0125))
    return Identity(13, "energy discrepancy", r"$ED_t/t \to J$", "objectives/ed.py", "t", xs, errors, 1.0, 0.1)
