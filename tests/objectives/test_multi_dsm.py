"""Denoising score matching at many levels against closed forms for Gaussian data N(m, s^2 I), v^2 = s^2 + sigma^2."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.models.ladder import Ladder
from ebm_lab.models.levels import ScoreNetwork
from ebm_lab.objectives._levels import draw_levels, draw_log_normal
from ebm_lab.objectives.multi_dsm import MultiDSM, space_loss, time_loss
from tests.helpers import faults_of
from tests.models.test_levels import LADDER, gaussian_model
from tests.objectives.test_dsm import noise_like

PLAIN = {"levels": "continuous", "log_mean": 0.0, "log_std": 1.0, "weight": "sigma2", "time_weight": 0.0}


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_space_term_is_the_closed_form_at_each_level(d, sigma, generator):
    """For s = -a (x - m) / v^2: d/2 (1 - (2 a - a^2) sigma^2 / v^2), least at a = 1; exact for exact moments."""
    model, data, _ = gaussian_model(generator, d)
    x, level = data.train, torch.full((2000,), sigma, dtype=torch.float64)
    z = noise_like(x, generator)
    for factor in (0.6, 1.0, 1.4):
        a = torch.tensor(factor, dtype=torch.float64, requires_grad=True)
        value = space_loss(a * model.score(x + sigma * z, level, create_graph=True), z, level).mean()
        value.backward()
        ratio = sigma**2 / (0.49 + sigma**2)
        assert float(value.detach()) == pytest.approx(d / 2 * (1 - (2 * factor - factor**2) * ratio), rel=1e-9)
        assert a.grad is not None and float(a.grad) == pytest.approx(d * (factor - 1) * ratio, abs=1e-9)


@pytest.mark.parametrize("d, sigma", [(1, 0.7), (3, 0.7), (3, 5.0)])
def test_time_term_is_least_at_the_true_rate(d, sigma, generator):
    """For rate = b sigma^2 / v^2 (d - |x - m|^2 / v^2): 1/2 (1 - (2 b - b^2) sigma^4 / v^4), least at b = 1; 40 runs
    of 2000 points, within 4 standard errors, value and slope."""
    model, data, _ = gaussian_model(generator, d)
    ratio = (sigma**2 / (0.49 + sigma**2)) ** 2
    values, slopes = {0.5: [], 1.0: []}, []
    for _ in range(40):
        x = data.train[0] + 0.7 * torch.randn(2000, d, generator=generator).double() + model.means[0] - data.train[0]
        z = torch.randn(2000, d, generator=generator).double()
        rate = model.level_gradients(x + sigma * z, torch.full((2000,), sigma, dtype=torch.float64))[2].detach()
        for b in values:
            values[b].append(time_loss(b * rate, z).mean())
        slopes.append((time_loss(1.001 * rate, z) - time_loss(0.999 * rate, z)).mean() / 0.002)
    for b, found in values.items():
        found = torch.stack(found)
        assert abs(float(found.mean()) - 0.5 * (1 - (2 * b - b * b) * ratio)) < 4 * float(found.std()) / 40**0.5
    slopes = torch.stack(slopes)
    assert abs(float(slopes.mean())) < 4 * float(slopes.std()) / 40**0.5


def test_levels_cover_the_ladder_evenly_in_log_sigma(generator):
    ladder, like = Ladder(5.0, 0.1, 6), torch.zeros(1).double()
    u = torch.log(5.0 / draw_levels(ladder, 1000, False, generator, like)) / torch.log(torch.tensor(50.0))
    assert ((u * 1000).floor() == torch.arange(1000)).all()  # one in each of the equal parts
    found, counts = draw_levels(ladder, 600, True, generator, like).unique(return_counts=True)
    torch.testing.assert_close(found.flip(0), torch.tensor([ladder.rung(i) for i in range(6)]).double())
    assert (counts == 100).all()


def test_the_objective_is_the_mean_of_its_equation(generator):
    """At the true model the loss is d/2 times the mean of 1 - sigma^2 / v^2 over the ladder, plus the time term's."""
    model, data, _ = gaussian_model(generator)
    for weight in (0.0, 2.0):
        objective = MultiDSM(model, generator, antithetic=True, **{**PLAIN, "time_weight": weight})
        loss = objective(Batch(data.train.repeat(10, 1)))
        sigma = model.ladder.spread(torch.linspace(0, 1, 10001).double())
        r = sigma**2 / (0.49 + sigma**2)
        expected = (1 - r).mean() + weight * 0.5 * (1 - r * r).mean()
        assert float(loss.value.detach()) == pytest.approx(float(expected), rel=0.03)  # 20,000 points: 4 SE
        assert loss.grad_evals == 2 * 2 * 20000 and not any(m.requires_grad for m in loss.metrics.values())


def test_a_score_network_has_no_time_term(generator):
    _, data, _ = gaussian_model(generator)
    (line,) = faults_of(data, energy="score_mlp", objective=("multi_dsm", {"time_weight": 1.0}))
    assert line.startswith("objective.time_weight=1: needs an energy, and energy 'score_mlp' is a score network")
    assert line.endswith("or objective.time_weight=0")


def test_antithetic_noise_comes_with_both_signs_at_the_same_level(generator):
    model, data, _ = gaussian_model(generator)
    seen, score = [], model.score
    model.score = lambda x, sigma=None, create_graph=False: seen.append((x, sigma)) or score(x, sigma, create_graph)
    MultiDSM(model, generator, antithetic=True, **PLAIN)(Batch(data.train[:50]))
    ((noisy, sigma),) = seen
    torch.testing.assert_close(noisy[:50] + noisy[50:], 2 * data.train[:50])
    assert torch.equal(sigma[:50], sigma[50:]) and not torch.allclose(noisy[:50], noisy[50:])


def truncated_cdf(sigma, ladder, median, std):
    """P(log-normal level <= sigma), cut off at the ladder's ends."""
    law = torch.distributions.Normal(math.log(median), std)
    low, high = (law.cdf(torch.tensor(end).double().log()) for end in (ladder.sigma_min, ladder.sigma_max))
    return (law.cdf(sigma.log()) - low) / (high - low)


@pytest.mark.parametrize("median, std", [(0.7, 1.3), (4.0, 0.5), (0.05, 1.0)])
def test_log_normal_levels_have_their_quantiles(median, std, generator):
    """One level in each of n parts of equal probability."""
    ladder = Ladder(5.0, 0.1, 6)
    sigma = draw_log_normal(ladder, 1000, median, std, generator, torch.zeros(1).double())
    assert ((truncated_cdf(sigma, ladder, median, std) * 1000).floor() == torch.arange(1000)).all()


@pytest.mark.parametrize("median, std", [(0.027, 0.1), (0.033, 0.1), (200.0, 0.2), (0.7, 0.05)])
def test_log_normal_levels_keep_their_law_in_float32_where_it_lies_at_an_end_or_beyond(median, std, generator):
    """The lower or the upper tail cut off, by its log probabilities: quantiles (i + u) / n, u in [0, 1)."""
    ladder, n = Ladder(9.6, 0.054, 6), 512
    sigma = draw_log_normal(ladder, n, median, std, generator, torch.zeros(1)).double()
    side = 1 if median < 0.7 else -1
    ends = side * (torch.tensor([ladder.sigma_min, ladder.sigma_max]).double() / median).log() / std
    first, last = torch.special.log_ndtr(-ends.sort()[0]).tolist()  # above either end
    at = torch.special.log_ndtr(-side * (sigma / median).log() / std)
    share = torch.expm1(at - first) / math.expm1(last - first)
    part = torch.arange(n) if side > 0 else torch.arange(n).flip(0)
    assert ((share * n - part - 0.5).abs() < 0.6).all()


def test_a_law_that_misses_the_ladder_is_refused_before_training(generator):
    model, _, _ = gaussian_model(generator, sigma_min=0.1, sigma_max=10.0)
    settings = {**PLAIN, "levels": "log_normal", "log_mean": -20.0, "log_std": 0.1}
    with pytest.raises(UserError, match="objective.levels=log_normal: no noise level between energy.sigma_min=0.1 and"):
        MultiDSM(model, generator, antithetic=False, **settings)


def test_stratified_levels_vary_less_from_batch_to_batch(generator):
    """The mean of log sigma over 16 levels: unbiased within 4.5 standard errors, and of a variance below a tenth of
    that of independent draws, std^2 / 16; the ladder is so wide that it cuts off nothing."""
    ladder, like = Ladder(1e4, 1e-4, 6), torch.zeros(1).double()
    means = torch.stack([draw_log_normal(ladder, 16, 0.7, 1.3, generator, like).log().mean() for _ in range(400)])
    assert abs(float(means.mean()) - math.log(0.7)) < 4.5 * float(means.std()) / 20
    assert float(means.var()) < 0.1 * 1.3**2 / 16


def test_log_normal_levels_are_relative_to_the_data_s_scale(generator):
    """log_mean = log(c) on data of scale s: the median level of a batch is c s, as the middle part has it."""
    model, data, _ = gaussian_model(generator, sigma_min=1e-4, sigma_max=1e4)
    settings = {**PLAIN, "levels": "log_normal", "log_mean": math.log(3.0), "log_std": 0.5}
    sigma = MultiDSM(model, generator, antithetic=False, **settings).draw(data.train[:1001])
    assert float(sigma[500]) == pytest.approx(3 * data.scale, rel=0.01)


class Scaled(ScoreNetwork):
    """a(sigma) times an exact score, a = 1 + b + c log sigma."""

    def __init__(self, data, exact):
        super().__init__(data, **LADDER)
        self.exact, self.b = exact, torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def correction(self, u, sigma):
        raise NotImplementedError

    def score(self, x, sigma=None, create_graph=False):
        a = 1 + self.b[0] + self.b[1] * torch.as_tensor(sigma).log()
        return a[:, None] * self.exact.score(x, sigma)


@pytest.mark.parametrize("weight", ["sigma2", "edm"])
@pytest.mark.parametrize("levels", ["continuous", "discrete", "log_normal"])
def test_the_true_score_is_the_minimiser_whatever_the_law_and_the_weight(weight, levels, generator):
    """The gradient in the two numbers that scale the exact score: zero within 4.5 standard errors at the true one, and
    far from zero a tenth away from it; 60 batches of 500 new points."""
    exact, data, m = gaussian_model(generator)
    model = Scaled(data, exact)
    objective = MultiDSM(model, generator, antithetic=False, **{**PLAIN, "levels": levels, "weight": weight})
    for shift, at_minimum in ((0.0, True), (0.1, False)):
        found = []
        with torch.no_grad():
            model.b.fill_(shift)
        for _ in range(60):
            x = m + 0.7 * torch.randn(500, 2, generator=generator, dtype=torch.float64)
            found.append(torch.autograd.grad(objective(Batch(x)).value, model.b)[0])
        found = torch.stack(found)
        z = (found.mean(0) / (found.std(0) / 60**0.5)).abs()
        assert (z < 4.5).all() if at_minimum else (z > 9).any()


def test_edm_s_weight_is_one_on_the_network(generator):
    """1/2 |F - F*|^2, F* = (sigma u - v z) / scale, for a network F = sin(u)."""

    class Sine(ScoreNetwork):
        def correction(self, u, sigma):
            return u.sin()

    _, data, _ = gaussian_model(generator, 3)
    model = Sine(data, **LADDER)
    objective = MultiDSM(model, generator, antithetic=False, **{**PLAIN, "weight": "edm"})
    z, sigma = torch.randn(40, 3, generator=generator).double(), torch.linspace(0.1, 5, 40).double()
    x = data.train[:40] + sigma[:, None] * z
    u, _, v = model.inputs(x, sigma)
    target = (sigma[:, None] * u - v[:, None] * z) / data.scale
    expected = 0.5 * (u.sin() - target).square().sum(1).mean()
    torch.testing.assert_close(objective.space(model.score(x, sigma), z, sigma), expected)
