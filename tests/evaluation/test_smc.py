"""Sequential Monte Carlo: E Z_hat = Z, resampling by exact counts, and the evaluation against closed forms."""

import math
from functools import partial

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.evaluation._annealed_importance import Annealed, fixed_schedule
from ebm_lab.evaluation._sequential import sequential, systematic
from ebm_lab.evaluation.smc import SMC
from ebm_lab.samplers.mala import MALA
from tests.evaluation.test_ais import FIXED, HMC3, view
from tests.helpers import Points, covariance, exact_sample, gaussian_energy


def test_systematic_resampling_takes_each_particle_as_often_as_its_weight_says(generator):
    """Over a fine grid of shifts the mean counts are N w, and no count is off by 1 or more; no particle of weight 0 is
    taken."""
    log_w = torch.randn(1, 7, generator=generator).double()
    log_w[0, 0] = log_w[0, 4] = -torch.inf
    shifts = torch.arange(0, 1, 1e-3).double()
    taken = systematic(log_w.expand(len(shifts), -1), shifts)
    counts, expected = torch.nn.functional.one_hot(taken, 7).sum(1).double(), 7 * log_w.softmax(1)
    assert float((counts - expected).abs().max()) < 1 and counts[:, 0].sum() == 0
    torch.testing.assert_close(counts.mean(0), expected[0], atol=2e-3, rtol=0)


def normalised(precision, steps, n, runs, generator, first=False):
    """Z_hat / Z of `runs` populations of n particles from N(0, 1) to E = precision x^2 / 2, with one MALA move a step;
    first: move, and weight after it."""
    energy, base = lambda x: 0.5 * precision * x.square().sum(1), IsotropicGaussian(torch.zeros(1).double(), 1.0)
    kernel, b = MALA(1.0, **{**FIXED, "step_size": 1.0 / max(1, precision) ** 0.5}, target_acceptance=None), [0.0] * 2

    def move(x, t):
        return kernel(Annealed(energy, base, b[t]), x, {}, generator=generator).x

    b, x = fixed_schedule("linear", steps), base.sample(runs * n, generator)
    rise = partial(Annealed.rise, energy, base)
    if first:
        x = move(x, 1)  # the increment from b_0 to b_1, and each one after it, then sees states at its upper end
        log_w = torch.zeros(len(x)).double()
        for t in range(1, len(b)):
            log_w = log_w + rise(x, b[t - 1], b[t])
            x = move(x, min(t + 1, steps))
        log_z, resampled = log_w.view(runs, n).logsumexp(1) - math.log(n), torch.zeros(1)
    else:
        log_z, _, _, resampled = sequential(rise, b, move, x, runs, generator)
    return (log_z - 0.5 * math.log(2 * math.pi / precision)).exp(), resampled.double()


def test_the_estimate_of_z_is_unbiased_if_particles_are_weighted_before_they_move(generator):
    """N(0, 1) to exp(-0.2 x^2), 5 steps, 50 particles: within 4 standard errors over 4,000 populations; if they move
    first, too large by over 10 %."""
    ratio, _ = normalised(0.4, 5, 50, 4000, generator)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(ratio) ** 0.5 < 0.01
    wrong, _ = normalised(0.4, 5, 50, 4000, generator, first=True)
    assert 1.1 < float(wrong.mean()) < 1.15


def test_the_estimate_of_z_is_unbiased_where_particles_are_resampled(generator):
    """N(0, 1) to a precision of 30 in 4 steps: most populations of 8 particles are resampled, and E Z_hat = Z within 4
    standard errors over 20,000 populations."""
    ratio, resampled = normalised(30.0, 4, 8, 20_000, generator)
    assert float(resampled.mean()) > 0.5 and float(resampled.std()) > 0, "some populations more often than others"
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / len(ratio) ** 0.5 < 0.06


def settings(**changes):
    plain = {"schedule": "adaptive", "base": "covariance", "base_floor": 0.1, "transition": HMC3}
    return {"name": "smc", "runs": 8, "particles": 64, "temperatures": 30, **plain, **changes}


def test_the_evaluation_of_a_gaussian_is_the_closed_form(generator):
    """log Z within 4 of its standard errors, and NLL = 1/2 tr(P S') + log Z."""
    cov, precision = covariance(5, generator), covariance(5, generator)
    energy = gaussian_energy(torch.zeros(5).double() + 0.5, precision)
    data = Points(exact_sample(torch.zeros(5).double(), cov, 1000, generator))
    evaluation = build("evaluation", settings(), "evaluation.smc")
    assert isinstance(evaluation, SMC)
    report = evaluation(view(energy, data))
    m, log_z = report.metrics, float(energy.exact_log_z().detach())
    assert abs(m["smc_log_z"] - log_z) < 4 * m["smc_log_z_se"] and m["smc_log_z_se"] < 0.1
    expected = 0.5 * float((precision @ (cov + 0.25)).trace()) + m["smc_log_z"]
    assert m["smc_nll"] == pytest.approx(expected, abs=1e-9) and 0 < m["smc_ess"] <= 1 and m["smc_particles"] == 64


def test_kernels_of_another_law_are_refused_by_their_own_path():
    with pytest.raises(UserError, match=r"evaluation.smc.transition.temperature=2.0: must be 1.0"):
        build("evaluation", settings(transition={**HMC3, "temperature": 2.0}), "evaluation.smc")


def test_an_energy_that_is_not_finite_says_so(generator):
    data = Points(exact_sample(torch.zeros(3).double(), torch.eye(3).double(), 100, generator))
    report = build("evaluation", settings(temperatures=5), "evaluation.smc")(
        view(lambda x: x.square().sum(1) + torch.nan, data)
    )
    assert math.isnan(report.metrics["smc_log_z"]) and any("not finite" in note for note in report.notes)
