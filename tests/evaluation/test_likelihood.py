"""Likelihood above two dimensions, what stands beside it, and the lines that it brings: against closed forms."""

import math
from typing import Literal

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.baselines import fitted_gaussian
from ebm_lab.distributions.elementary import Gaussian, IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.evaluation._importance import weigh
from ebm_lab.evaluation.likelihood import Likelihood
from tests.evaluation.test_ais import evaluation as ais
from tests.helpers import Points, covariance, gaussian_energy
from tests.training.test_guard import LIMITS, Guard


class Known(Dataset):
    """Draws of a law that is known; `sampled`: whether it may be drawn from again."""

    def __init__(self, law, n=2000, sampled=True, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.train, self.val, self.test = (law.sample(n, g) for _ in range(3))
        self.own, self.law = law, law if sampled else None

    def log_prob(self, x):
        return self.own.log_prob(x)


def view(energy, data, split: Literal["val", "test"] = "test", **more):
    settings = {"sampler": None, "count": 64, "steps": 10, "generator": torch.Generator().manual_seed(1), **more}
    return EvalView(energy, data, split, **settings)


def kl(m, s, n, t):
    """KL(N(m, s) || N(n, t))."""
    quadratic = torch.linalg.solve(t, s + torch.outer(m - n, m - n)).trace()
    return 0.5 * float(quadratic - len(m) + t.logdet() - s.logdet())


def pair(d=10, shift=0.1, wider=1.15):
    """A Gaussian truth (mean, covariance) and a Gaussian model that is a little wrong, with its energy's log Z."""
    generator = torch.Generator().manual_seed(3)
    s, m = covariance(d, generator), torch.randn(d, generator=generator).double()
    t, n = wider * s, m + shift
    energy = gaussian_energy(n, torch.linalg.inv(t))
    return (m, s), (n, t), lambda x: energy(x) + 7, float(energy.exact_log_z().detach()) - 7


def test_a_learnt_log_z_gives_a_likelihood_in_any_dimension():
    """nll_learnt = mean E + what was learnt; nll stays the measured one, and is missing where nothing measures it."""
    truth, _, energy, log_z = pair()
    data, evaluation = Known(Gaussian(*truth)), Likelihood(cells=10)
    m = evaluation(view(energy, data, learnt_log_z=log_z + 0.3)).metrics
    nll = float(energy(data.test).detach().mean()) + log_z + 0.3
    gap = nll + float(data.log_prob(data.test).mean())
    assert [m["nll_learnt"], m["nll_gap_learnt"]] == pytest.approx([nll, gap], rel=1e-9)
    assert abs(m["log_z_error"] - 0.3) < 4 * m["log_z_se"] and abs(m["nll_learnt"] - m["nll"] - 0.3) < 4 * m["log_z_se"]
    seen, unlearnt = (view(energy, Points(data.test), learnt_log_z=z) for z in (log_z + 0.3, None))
    evaluation = Likelihood(cells=10)
    report = evaluation(seen)
    assert evaluation.applies(seen) is None and report.metrics == {"nll_learnt": pytest.approx(nll)}
    (note,) = report.notes
    assert note.startswith("nll_learnt takes the log Z that the objective learnt")
    assert "log Z has no formula here" in str(evaluation.applies(unlearnt))


@pytest.mark.parametrize("sampled", [True, False])
def test_log_z_and_both_divergences_of_gaussians_in_ten_dimensions(sampled):
    """Within 4 of their standard errors, from exact samples or, where the law has no sampler, the held-out points."""
    truth, model, energy, log_z = pair()
    m = Likelihood(cells=10)(view(energy, Known(Gaussian(*truth), sampled=sampled))).metrics
    assert abs(m["log_z"] - log_z) < 4 * m["log_z_se"] and 0 < m["log_z_se"] < 0.05
    assert abs(m["kl_forward"] - kl(*truth, *model)) < 4 * m["kl_forward_se"] and 0 < m["kl_forward_se"] < 0.02
    assert abs(m["kl_reverse"] - kl(*model, *truth)) < 4 * m["kl_reverse_se"] and 0 < m["kl_reverse_se"] < 0.05
    assert abs(m["nll_gap"] - kl(*truth, *model)) < 4 * m["nll_gap_se"] and m["nll_gap_se"] < 0.05
    assert m["nll_gap"] == pytest.approx(m["nll"] - m["nll_true"]) and kl(*truth, *model) > 4 * m["kl_forward_se"]


def test_standard_errors_are_those_of_repeated_draws():
    """Over 200 draws of 5000 weights, the root mean square of errors over standard errors is 1 within a fifth."""
    truth, model, energy, log_z = pair(d=3)
    law, g, errors = Gaussian(*truth), torch.Generator().manual_seed(0), []
    for _ in range(200):
        x = law.sample(5000, g)
        found = weigh((-energy(x) - law.log_prob(x)).detach())
        forward, reverse = found.forward - kl(*truth, *model), found.reverse - kl(*model, *truth)
        errors.append([(found.log_z - log_z) / found.se, forward / found.forward_se, reverse / found.reverse_se])
    rms = torch.tensor(errors).square().mean(0).sqrt()
    assert bool(((rms > 0.8) & (rms < 1.2)).all()), rms


def test_effective_sample_size_and_divergences_of_given_weights():
    """w = 1, 1, 2: (sum w)^2 / (n sum w^2) = 16 / 18; Z = 4 / 3."""
    log_w = torch.tensor([1.0, 1.0, 2.0]).double().log()
    found = weigh(log_w)
    assert found.ess == pytest.approx(16 / 18) and found.log_z == pytest.approx(math.log(4 / 3))
    assert found.forward == pytest.approx(math.log(4 / 3) - math.log(2) / 3)
    assert found.reverse == pytest.approx(math.log(2) / 2 - math.log(4 / 3))


def test_a_sample_without_weight_leaves_the_reverse_divergence_finite():
    """w = 1, 1, 0: Z = 2 / 3, KL(model | truth) = log(3 / 2), KL(truth | model) infinite."""
    found = weigh(torch.tensor([0.0, 0.0, -torch.inf]).double())
    assert found.reverse == pytest.approx(math.log(3 / 2)) and math.isfinite(found.reverse_se)
    assert found.forward == math.inf


def test_a_model_elsewhere_gets_no_likelihood_and_one_line():
    truth, _, _, _ = pair()
    far = gaussian_energy(truth[0] + 5, torch.eye(10).double())
    report = Likelihood(cells=10)(view(lambda x: far(x), Known(Gaussian(*truth))))
    assert "nll" not in report.metrics and "nll_uncertain" in report.metrics and report.metrics["log_z_ess"] < 0.01
    assert len(report.notes) == 1 and "fewer than 1% of the exact samples" in report.notes[0]
    broken = Likelihood(cells=10)(view(lambda x: far(x) * torch.nan, Known(Gaussian(*truth))))
    assert broken.metrics == {} and "not finite at samples" in broken.notes[0]


class OnBase(torch.nn.Module):
    """E = -log N(x; 0, I) + a |x|^2 / 2 in d dimensions, with log Z = -d / 2 log(1 + a)."""

    def __init__(self, d, a):
        super().__init__()
        self.base, self.a = IsotropicGaussian(torch.zeros(d).double(), 1.0), a

    def forward(self, x):
        return -self.base.log_prob(x) + self.a * x.square().sum(1) / 2


def test_the_base_gives_log_z_where_no_law_is_known():
    """Within 4 standard errors in ten dimensions, and exactly where the model is its base."""
    unknown = Points(torch.randn(500, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for a in (0.0, 0.3):
        seen = view(OnBase(10, a), unknown)
        assert Likelihood(cells=10).applies(seen) is None
        m = Likelihood(cells=10)(seen).metrics
        assert abs(m["log_z"] + 5 * math.log(1 + a)) <= 4 * m["log_z_se"] + 1e-12 and m["log_z_se"] < 0.02
        assert m["log_z_ess"] == pytest.approx((1 + 2 * a) ** 5 / (1 + a) ** 10, rel=0.1) and "kl_forward" not in m


def test_of_two_laws_the_one_that_covers_the_model_gives_log_z():
    """The truth has only a third of the base's width, so that the model, which is its base, is hardly covered by it."""
    narrow = Known(Gaussian(torch.zeros(10).double(), torch.eye(10).double() / 9))
    m = Likelihood(cells=10)(view(OnBase(10, 0.0), narrow)).metrics
    assert m["log_z"] == pytest.approx(0, abs=1e-12) and m["log_z_ess"] == pytest.approx(1)


def test_nothing_known_in_many_dimensions_is_told():
    data = Points(torch.randn(20, 4))
    assert "evaluation=ais estimates it" in str(Likelihood(cells=10).applies(view(lambda x: x.sum(1), data)))


def test_a_fitted_gaussian_stands_beside_the_model():
    """Its nll on the points it was fitted to is 1/2 log det S + d/2 (log 2 pi + 1); the difference is paired."""
    truth, _, energy, _ = pair(d=4)
    x = Gaussian(*truth).sample(3000, torch.Generator().manual_seed(5))
    data = Known(Gaussian(*truth))
    data.train = data.test = x
    m = Likelihood(cells=10)(view(energy, data)).metrics
    own = 0.5 * float((x - x.mean(0)).T.cov(correction=0).logdet()) + 2 * (math.log(2 * math.pi) + 1)
    assert m["nll_gaussian"] == pytest.approx(own, abs=1e-9)
    assert m["nll_above_gaussian"] == pytest.approx(m["nll"] - m["nll_gaussian"], abs=1e-9)
    law = fitted_gaussian(data)
    assert law is not None
    paired = (energy(x).detach() + law.log_prob(x)).std() / 3000**0.5
    assert m["nll_above_gaussian_se"] == pytest.approx(math.hypot(float(paired), m["log_z_se"]), rel=1e-6)
    assert "nll_gaussian" not in Likelihood(cells=10)(view(energy, data, "val")).metrics


def test_the_base_of_an_energy_stands_beside_it():
    """E = -log base + f with f = 0: the model is its base, to the last bit of log Z; with f = |x|^2 it is worse."""
    base = IsotropicGaussian(torch.zeros(2).double(), 1.0)

    class Corrected(torch.nn.Module):
        def __init__(self, f):
            super().__init__()
            self.base, self.f = base, f

        def forward(self, x):
            return -self.base.log_prob(x) + self.f * x.square().sum(1)

    data = Known(base)
    same, worse = (Likelihood(cells=100)(view(Corrected(f), data)).metrics for f in (0.0, 1.0))
    assert same["nll_base"] == pytest.approx(float(-base.log_prob(data.test).mean()), abs=1e-12)
    assert abs(same["nll_above_base"]) < 1e-4 and same["nll_gap_base"] == pytest.approx(0, abs=1e-12)
    expected = float(data.test.square().sum(1).mean()) - math.log(3)  # the model is N(0, I / 3)
    assert worse["nll_above_base"] == pytest.approx(expected, abs=1e-3)
    told = Guard(data, False, False, **LIMITS).warnings_final(worse)
    assert [line.split(" by ")[0] for line in told] == [
        "the model is worse than a fitted Gaussian",
        "the model is worse than its own base",
    ]
    assert Guard(data, False, False, **LIMITS).warnings_final(same) == []
    assert Guard(data, True, True, **LIMITS).warnings_final(worse) == []  # cold chains learn no log-density


def test_a_difference_within_two_standard_errors_is_not_told():
    guard = Guard(Points(torch.randn(50, 2)), False, False, **LIMITS)
    close = {"ais_nll_above_gaussian": 0.1, "ais_nll_above_gaussian_se": 0.051}
    assert guard.warnings_final(close) == [] and guard.warnings_final({}) == []
    (line,) = guard.warnings_final({**close, "ais_nll_above_gaussian_se": 0.049})
    assert "worse than a fitted Gaussian by 0.1 nats" in line


def test_the_blur_s_part_of_the_gap_is_told():
    """A Gaussian blurred by sigma: KL(N(m, S) || N(m, S + sigma^2 I)), the whole gap of a perfect blurred model."""
    (m, s), _, _, _ = pair(d=3)
    wide = s + 0.3**2 * torch.eye(3).double()
    model = gaussian_energy(m, torch.linalg.inv(wide))
    report = Likelihood(cells=10)(view(model, Known(Gaussian(m, s), 20_000), blur=0.3))
    found = report.metrics
    assert abs(found["nll_gap_blur"] - kl(m, s, m, wide)) < 4 * found["nll_gap_blur_se"]
    assert found["nll_gap_blur_se"] < 0.1 * found["nll_gap_blur"]
    assert found["nll_gap"] == pytest.approx(found["nll_gap_blur"], abs=1e-6)
    assert "are the blur of sigma=0.3: a perfect model at this sigma would have them too" in report.notes[0]
    assert "nll_gap_blur" not in Likelihood(cells=10)(view(model, Known(Gaussian(m, s)))).metrics


def test_ais_has_the_truth_and_the_same_baselines_beside_it():
    truth, model, energy, _ = pair(d=3)
    data = Known(Gaussian(*truth))
    report = ais(temperatures=20, reverse_moves=5)(view(energy, data))
    m = report.metrics
    assert m["ais_nll_true"] == pytest.approx(float(-data.log_prob(data.test).mean()), abs=1e-9)
    assert m["ais_nll_gap"] == pytest.approx(m["ais_nll"] - m["ais_nll_true"])
    assert abs(m["ais_nll_gap"] - kl(*truth, *model)) < 4 * m["ais_nll_gap_se"]
    assert m["ais_nll_above_gaussian"] == pytest.approx(m["ais_nll"] - m["nll_gaussian"])
    assert any(note.startswith("AIS converged: ") for note in report.notes)


def test_a_mixture_beside_the_model_is_chosen_by_the_validation_points():
    weights, means = torch.tensor([0.5, 0.3, 0.2]).double(), 4 * torch.eye(3).double()
    law = GaussianMixture(weights, means, stds=torch.tensor(0.5).double())
    data = Known(law, 4000)
    m = Likelihood(cells=10)(view(lambda x: -law.log_prob(x), data)).metrics
    assert m["nll_mixture"] == pytest.approx(m["nll_true"], abs=0.03) and m["nll_gaussian"] > m["nll_true"] + 1
    assert abs(m["nll_gap"]) < 1e-6 and m["log_z_ess"] == pytest.approx(1.0) and m["nll_above_gaussian"] < -1
