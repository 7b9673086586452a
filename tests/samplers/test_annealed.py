"""Samplers that go down noise levels, with the exact model of each level: their laws in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.registry import build
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.samplers.annealed_langevin import AnnealedLangevin
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.predictor_corrector import PredictorCorrector, corrector_step
from ebm_lab.samplers.probability_flow import ProbabilityFlow
from ebm_lab.samplers.recovery_descent import RecoveryDescent
from tests.helpers import Points
from tests.models.test_levels import ExactMixture, gaussian_model

N = 20_000


def draw(sampler, model, data, n=N):
    view = EvalView(model, data, "test", sampler, n, 7, torch.Generator().manual_seed(1))
    return view.samples, view.trajectory


def check_law(x, mean, variance):
    """Mean and variance of every coordinate within 4.5 standard errors."""
    assert ((x.mean(0) - mean).abs() < 4.5 * (variance / N) ** 0.5).all()
    assert ((x.var(0) - variance).abs() < 4.5 * variance * (2 / N) ** 0.5).all()


@pytest.mark.parametrize("denoise", [True, False])
def test_annealed_langevin_has_the_law_of_its_recursion(denoise, generator):
    """N(m, c): c <- (1 - e^2 / (2 v^2))^2 c + e^2 a step, from the prior; Tweedie's formula multiplies by (s/v)^4."""
    model, data, m = gaussian_model(generator)
    sampler = AnnealedLangevin(steps=3, step_size=0.8, noise_scale=1.0, denoise=denoise)
    c = 5.0**2 + data.scale**2
    for i in range(12):
        v2, e2 = 0.49 + model.ladder.rung(i) ** 2, 0.64 * model.ladder.rung(i) ** 2
        for _ in range(3):
            c = (1 - e2 / (2 * v2)) ** 2 * c + e2
    x, film = draw(sampler, model, data)
    check_law(x, m, c * (0.49 / (0.49 + 0.01)) ** 2 if denoise else c)
    assert [step for step, _ in film] == list(range(0, 37, 3)) and sampler.total(model) == 36


def test_recovery_has_the_law_of_its_recursion(generator):
    """K steps of e^2 = b gap^2 on the law of x given x_0, N(k x_0, 1 / p), p = 1 / v^2 + 1 / gap^2, k = 1 / (gap^2 p):
    c <- (k + r^K (1 - k))^2 c + e^2 (1 - r^2K) / (1 - r^2), r = 1 - e^2 p / 2, whatever the unit; from the prior."""
    model, data, m = gaussian_model(generator)
    kernel = Langevin(3.0, steps=4, step_size=0.6, noise_scale=1.0, clip_grad=None)
    c = 5.0**2 + data.scale**2
    for high, low in pairwise([model.ladder.rung(i) for i in range(12)]):
        gap2 = high**2 - low**2
        p, e2 = 1 / (0.49 + low**2) + 1 / gap2, 0.36 * gap2
        k, r = 1 / (gap2 * p), 1 - e2 * p / 2
        c = (k + r**4 * (1 - k)) ** 2 * c + e2 * (1 - r**8) / (1 - r**2)
    x, film = draw(RecoveryDescent(3.0, kernel=kernel, denoise=False), model, data)
    check_law(x, m, c)
    assert [step for step, _ in film] == list(range(0, 45, 4))


def test_recovery_by_tempering_has_the_law_of_exact_chains(generator):
    """Chains that reach p(x | seen), K large: c <- k^2 c + 1 / p, with k and p as above, at every level; the hot
    replicas of all chains are in one batch."""
    model, data, m = gaussian_model(generator)
    kernel = build(
        "sampler", compose_config(["sampler=tempering"])["sampler"] | {"steps": 8, "step_size": 1.0}, scale=3.0
    )
    c = 5.0**2 + data.scale**2
    for high, low in pairwise([model.ladder.rung(i) for i in range(12)]):
        gap2 = high**2 - low**2
        p = 1 / (0.49 + low**2) + 1 / gap2
        c = (1 / (gap2 * p)) ** 2 * c + 1 / p
    x, _ = draw(RecoveryDescent(3.0, kernel=kernel, denoise=False), model, data)
    check_law(x, m, c)


def test_the_predictor_has_the_law_of_its_recursion(generator):
    """c <- (1 - q / v^2)^2 c + q, q = sigma^2 - tau^2, and with corrections it comes nearer to s^2 + sigma_min^2."""
    model, data, m = gaussian_model(generator)
    c = 5.0**2 + data.scale**2
    for sigma, tau in pairwise([model.ladder.sigma(k / 22) for k in range(23)]):
        q = sigma**2 - tau**2
        c = (1 - q / (0.49 + sigma**2)) ** 2 * c + q
    alone = PredictorCorrector(steps=2, corrections=0, snr=0.16, denoise=False)
    check_law(draw(alone, model, data)[0], m, c)
    corrected = draw(PredictorCorrector(steps=2, corrections=4, snr=0.16, denoise=False), model, data)[0]
    assert ((corrected.var(0) - 0.5).abs() < 0.3 * abs(c - 0.5)).all()


@pytest.mark.parametrize(
    "sampler, scores",
    [
        (AnnealedLangevin(steps=3, step_size=0.5, noise_scale=1.0, denoise=False), 3),
        (PredictorCorrector(steps=2, corrections=4, snr=0.16, denoise=False), 2 * (1 + 4)),
        (ProbabilityFlow(steps=2, denoise=False), 2 * 2),
    ],
)
def test_every_score_of_a_rung_is_counted(sampler, scores, generator):
    model, data, _ = gaussian_model(generator)
    taken, score = [], model.score
    model.score = lambda x, sigma, create_graph=False: taken.append(len(x)) or score(x, sigma, create_graph)
    chain = sampler(model, data.train[:5], {}, generator=generator)
    assert chain.grad_evals == sum(taken) == 5 * scores


def test_a_fine_predictor_corrector_has_the_law_of_the_data(generator):
    model, data, m = gaussian_model(generator)
    x, film = draw(PredictorCorrector(steps=40, corrections=1, snr=0.02, denoise=False), model, data)
    assert len(film) == 12
    assert ((x.mean(0) - m).abs() < 4.5 * (0.5 / N) ** 0.5).all()
    assert ((x.var(0) - 0.5).abs() < 0.5 * (4.5 * (2 / N) ** 0.5 + 0.01)).all()


def test_the_corrector_s_step_has_its_signal_to_noise_ratio(generator):
    """(e^2 / 2) |s| = snr e |z|: the drift of a step against its noise, which is the ratio's definition."""
    s, z = torch.randn(50, 3, generator=generator), torch.randn(50, 3, generator=generator)
    e = corrector_step(s, z, 0.16)
    drift, noise = (e**2 / 2 * s).norm(dim=1).mean(), (e * z).norm(dim=1).mean()
    assert float(drift / noise) == pytest.approx(0.16, rel=1e-5)


def test_the_probability_flow_scales_a_gaussian(generator):
    """x -> m + (x - m) v_min / v_max, with an error that falls as the square of the step."""
    model, data, m = gaussian_model(generator)
    errors = []
    for steps in (4, 8):
        sampler = ProbabilityFlow(steps=steps, denoise=False)
        x, film = draw(sampler, model, data, 100)
        expected = m + (film[0][1] - m) * math.sqrt(0.5 / (0.49 + 25))
        errors.append(float((x - expected).abs().max()))
    assert errors[1] < 2e-3 and errors[0] / errors[1] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize(
    "sampler",
    [
        AnnealedLangevin(steps=20, step_size=0.5, noise_scale=1.0, denoise=False),
        PredictorCorrector(steps=10, corrections=1, snr=0.16, denoise=False),
        ProbabilityFlow(steps=4, denoise=False),
    ],
    ids=lambda s: type(s).__name__,
)
def test_the_weights_of_two_modes_six_standard_deviations_apart(sampler, generator):
    """0.2 and 0.8: the share of 20,000 chains in the lighter mode, within 4.5 standard errors and a bias of 0.01 from
    a prior that is a Gaussian and not the blurred mixture, and from steps of finite size."""
    means, weights = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).double(), torch.tensor([0.2, 0.8]).double()
    data = Points(GaussianMixture(weights, means, torch.tensor(1.0).double()).sample(5000, generator))
    model = ExactMixture(data, weights, means, 1.0, sigma_min=0.1, sigma_max=12.0, levels=16)
    x, _ = draw(sampler, model, data)
    share = float((x[:, 0] < 0).double().mean())
    assert abs(share - 0.2) < 4.5 * (0.16 / N) ** 0.5 + 0.01


def test_a_call_goes_one_level_down_and_stays_at_the_last(generator):
    model = gaussian_model(generator)[0]
    sampler = AnnealedLangevin(steps=2, step_size=0.5, noise_scale=1.0, denoise=True)
    x, state = sampler.start(model).sample(10, generator), {}
    sigmas = []
    for _ in range(14):
        x, state, metrics, taken = sampler(model, x, state, generator=generator)
        sigmas.append(float(metrics["chain_sigma"]))
    assert sigmas[:12] == pytest.approx([model.ladder.rung(i) for i in range(12)]) and sigmas[12:] == sigmas[11:12] * 2
    assert int(state["level"]) == 14 and taken == 30
