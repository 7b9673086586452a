"""Samplers with levels of their own, with the exact model of Gaussian data N(m, s^2 I): their laws in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import build
from ebm_lab.samplers._sigma_grid import sigma_grid
from ebm_lab.samplers.dpm_solver import DPMSolver
from ebm_lab.samplers.edm import EDM
from tests.models.test_levels import gaussian_model
from tests.samplers.test_annealed import check_law, draw

GRID = {"levels": 12, "rho": 7.0, "sigma_min": "auto", "sigma_max": "auto", "denoise": False}
STILL = {"churn": 0.0, "churn_min": 0.0, "churn_max": 1e9}
S2 = 0.49


def edm(**changes):
    return EDM(**{**GRID, **STILL, **changes})


def dpm(**changes):
    return DPMSolver(**{**GRID, **changes})


def test_the_levels_are_those_of_equation_5():
    """Three levels from 80 to 0.002 with rho 7, by hand: 80^(1/7) = 1.87012 and 0.002^(1/7) = 0.41156."""
    assert sigma_grid(80.0, 0.002, 3, 7.0) == pytest.approx([80, 2.51522, 0.002], rel=1e-5)
    assert sigma_grid(8.0, 0.5, 5, None) == pytest.approx([8, 4, 2, 1, 0.5])
    assert sigma_grid(8.0, 0.5, 5, 1e6) == pytest.approx([8, 4, 2, 1, 0.5], rel=1e-4)
    assert sigma_grid(8.0, 0.5, 4, 1.0) == pytest.approx([8, 5.5, 3, 0.5])
    for rho in (1.0, 7.0, 1e6, None):
        assert sigma_grid(80.0, 0.002, 9, rho)[-1] == 0.002


def test_a_rho_below_1_is_refused_before_training():
    """It would take its levels from near sigma_max, and the last one would be lost to rounding."""
    with pytest.raises(UserError, match=r"sampler.rho=0.1: should be greater than or equal to 1"):
        build("sampler", {"name": "dpm_solver", **GRID, "rho": 0.1})


def heun_factor(t, lower):
    """What one step of Heun's method, or of Euler's to 0, multiplies x - m by."""
    if lower == 0:
        return S2 / (S2 + t**2)
    slope = t / (S2 + t**2)
    end = 1 + (lower - t) * slope
    return 1 + (lower - t) / 2 * (slope + lower / (S2 + lower**2) * end)


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize(
    "levels, churn, top", [(12, 0.0, 3.0), (12, 3.0, 3.0), (4, 0.6, 3.0), (4, 100.0, 3.0), (4, 100.0, 20.0)]
)
def test_the_stochastic_sampler_has_the_law_of_its_recursion(levels, churn, top, denoise, generator):
    """N(m, c): c <- h(t, lower)^2 (c + t^2 - sigma^2), t = sigma (1 + min(churn / N, sqrt 2 - 1)) where
    0.5 < sigma / scale < top, but no higher than the ladder's 5."""
    model, data, m = gaussian_model(generator)
    sampler = edm(levels=levels, churn=churn, churn_min=0.5, churn_max=top, denoise=denoise)
    sigmas = [*sigma_grid(5.0, 0.1, levels, 7.0), *([0.0] if denoise else [])]
    c, gamma = 25 + data.scale**2, min(churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for sigma, lower in pairwise(sigmas):
        t = min(sigma * (1 + gamma), 5.0) if 0.5 < sigma / data.scale < top else sigma
        c = heun_factor(t, lower) ** 2 * (c + t**2 - sigma**2)
    x, film = draw(sampler, model, data)
    check_law(x, m, c)
    assert [step for step, _ in film] == list(range(len(sigmas))) and sampler.total(model) == len(sigmas) - 1


def test_churn_lifts_a_level_by_its_share_up_to_a_limit_and_only_within_its_range():
    sampler = edm(churn=3.0, churn_min=0.5, churn_max=3.0)
    assert [sampler.raised(s, 12, 2.0) for s in (0.9, 2.0, 6.1)] == pytest.approx([0.9, 2.5, 6.1])
    assert edm(churn=100.0).raised(2.0, 12, 2.0) == pytest.approx(2 * 2**0.5)


@pytest.mark.parametrize("sampler", [edm, dpm])
@pytest.mark.parametrize("rho", [7.0, None])
def test_without_churn_the_flow_scales_a_gaussian_with_an_error_of_second_order(sampler, rho, generator):
    """x -> m + (x - m) v_min / v_max: the error falls by 4 from 60 to 120 steps."""
    model, data, m = gaussian_model(generator)
    errors = []
    for levels in (61, 121):
        x, film = draw(sampler(levels=levels, rho=rho), model, data, 100)
        expected = m + (film[0][1] - m) * math.sqrt((S2 + 0.01) / (S2 + 25))
        errors.append(float((x - expected).abs().max()))
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("sampler", [edm, dpm])
def test_many_steps_have_the_law_of_the_lowest_level_and_denoising_that_of_tweedie(sampler, generator):
    """N(m, s^2 + sigma_min^2), and with the step to 0 (s^2 / v)^2, at the sampler's own range of levels; from the base,
    whose variance is that of the data's sample."""
    model, data, m = gaussian_model(generator)
    for denoise in (False, True):
        x, film = draw(sampler(levels=80, sigma_min=0.3, sigma_max=3.0, denoise=denoise), model, data)
        start = data.scale**2 + 9
        check_law(film[0][1], m, start)
        v2 = S2 + 0.09
        check_law(x, m, start * v2 / (S2 + 9) * ((S2 / v2) ** 2 if denoise else 1))


def test_the_multistep_method_is_exact_for_a_denoiser_that_is_linear_in_log_sigma(generator):
    """Data at one point, s = 0: D is the point itself, and any number of steps ends on it up to sigma_min / sigma."""
    model, data, m = gaussian_model(generator, s=1e-9)
    x, film = draw(dpm(levels=3), model, data, 50)
    torch.testing.assert_close(x - m, (film[0][1] - m) * 0.1 / 5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sampler, scores", [(edm(denoise=True), 23), (dpm(denoise=True), 12)])
def test_every_score_is_counted_and_calls_after_the_last_change_nothing(sampler, scores, generator):
    model, data, _ = gaussian_model(generator)
    taken, score = [], model.score
    model.score = lambda x, sigma=None, create_graph=False: taken.append(len(x)) or score(x, sigma, create_graph)
    x, state, counted, sigmas = data.train[:5], {}, 0, []
    for _ in range(12):
        x, state, metrics, more = sampler(model, x, state, generator=generator)
        counted, sigmas = counted + more, [*sigmas, float(metrics["chain_sigma"])]
    assert counted == sum(taken) == 5 * scores and sigmas == pytest.approx([*sigma_grid(5, 0.1, 12, 7.0)[1:], 0])
    end, after, _, more = sampler(model, x, state, generator=generator)
    assert torch.equal(end, x) and more == 0 and int(after["level"]) == 12


def test_levels_beyond_those_of_the_model_are_rejected_before_training(generator):
    model, _, _ = gaussian_model(generator)
    line = "sampler.sigma_min=0.05, sampler.sigma_max=auto: must be auto, or levels of the model, energy.sigma_min=0.1"
    with pytest.raises(UserError, match=line):
        DPMSolver(model, **{**GRID, "sigma_min": 0.05})
    with pytest.raises(UserError, match="sampler.sigma_max=9"):
        EDM(model, **{**GRID, **STILL, "sigma_max": 9.0})
    with pytest.raises(UserError, match="sampler.churn_min=3: must be less than sampler.churn_max=2"):
        edm(churn_min=3.0, churn_max=2.0)
