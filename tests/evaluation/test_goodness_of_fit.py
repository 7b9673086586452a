"""Measures of fit against closed forms; tests of fit against their level.

A test at 5 % is repeated 200 times under its null: between 2 and 9 % rejections is within 2.6 standard errors of 5 %.
"""

import itertools
import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.functional import score
from ebm_lab.distributions.mixture import GaussianMixture, mixture_of
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation.c2st import C2ST
from ebm_lab.evaluation.fisher import Fisher
from ebm_lab.evaluation.ksd import KSD, stein_kernels, stein_test
from ebm_lab.evaluation.mmd import MMD, mean_kernel, mmd2, mmd2_of_labels, permutation_test
from ebm_lab.evaluation.modes import Modes, kl, quadrature_weights, total_variation
from ebm_lab.evaluation.prdc import PRDC
from ebm_lab.models.levels import ScoreNetwork
from ebm_lab.statistics.permutation import labellings, p_value, random_signs
from ebm_lab.statistics.prdc import density_coverage, expected_coverage, prdc
from ebm_lab.statistics.stein import bootstrap_std, imq_stein_kernel, u_statistic, wild_bootstrap
from tests.helpers import Exact, Points, covariance, exact_sample, gaussian_energy

REPEATS = 200


def view(energy, data, samples=None, **more):
    """What an evaluation sees; `samples` are what the chains end with, noise around the data what they begin with."""
    settings = {"sampler": None, "count": 10, "steps": 1, "generator": torch.Generator().manual_seed(0), **more}
    seen = EvalView(energy, data, "test", **settings, start=start_law(data))
    if samples is not None:
        seen.sampler, seen.count = object(), len(samples)
        start = start_law(data).sample(len(samples), torch.Generator().manual_seed(1))
        seen.__dict__["trajectory"] = [(0, start), (1, samples)]
    return seen


def normal(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Known(Points):
    """Given points with a density."""

    def __init__(self, x, law, mixture=None):
        super().__init__(x)
        self.known, self.law = law, mixture

    def log_prob(self, x):
        return self.known.log_prob(x)


def rate(p):
    return float((torch.as_tensor(p) <= 0.05).double().mean())


# --- significance -------------------------------------------------------------------------------------------------


def test_a_p_value_counts_ties_and_never_is_zero():
    null = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, math.nan]])
    p = p_value(torch.tensor([3.0, 9.0, 9.0]), null)
    assert p[:2].tolist() == pytest.approx([3 / 5, 1 / 5]) and p[2].isnan()
    assert p_value(torch.tensor(math.nan), null[0]).isnan()


def test_labellings_are_all_equally_likely(generator):
    """Six ways to choose two of four: each count within 4.5 binomial standard errors of n / 6."""
    rows = labellings(2, 2, 6000, generator)
    assert rows.shape == (6000, 4) and rows.sum(1).eq(2).all()
    codes = (rows.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(codes)[codes.unique()]
    assert len(counts) == 6 and (counts - 1000).abs().max() < 4.5 * math.sqrt(6000 * 5 / 36)


def test_random_signs_are_fair(generator):
    w = random_signs(50, 200, generator)
    assert (
        w.abs().eq(1).all() and abs(float(w.mean())) < 4 / 100 and abs(float((w[:, 0] * w[:, 1]).mean())) < 4 / 200**0.5
    )


# --- kernel Stein discrepancy -------------------------------------------------------------------------------------


def test_the_stein_kernel_is_what_autograd_makes_of_its_definition(generator):
    """s's' k + s' grad_y k + grad_x k' s' + tr grad_x grad_y' k, every derivative by autograd, in 3 dimensions."""
    x, s, c = normal(4, 3, generator=generator), normal(4, 3, generator=generator), 1.3

    def k(a, b):
        return (1 + ((a - b) ** 2).sum() / c**2) ** -0.5

    h = imq_stein_kernel(x, s, c)
    for i, j in itertools.product(range(4), repeat=2):
        a, b = x[i].clone().requires_grad_(), x[j].clone().requires_grad_()
        grad_a, grad_b = torch.autograd.grad(k(a, b), (a, b), create_graph=True)
        trace = sum(torch.autograd.grad(grad_a[m], b, retain_graph=True)[0][m] for m in range(3))
        expected = s[i] @ s[j] * k(a, b) + s[i] @ grad_b + grad_a @ s[j] + trace
        assert float(h[i, j]) == pytest.approx(float(expected.detach()), abs=1e-12)


@pytest.mark.parametrize("d, shift", [(1, 0.0), (1, 0.7), (3, 0.7)])
def test_ksd_is_the_closed_form_for_a_shifted_gaussian(d, shift, generator):
    """Model N(0, I), points N(m, I): KSD^2 = |m|^2 E k(x, x') with x - x' ~ N(0, 2 I), for s_model - s_points = -m.

    |x - x'|^2 / 2 is chi-square; the integral is scipy's. The mean over repetitions lies within 4 standard errors."""
    from scipy import integrate, stats

    c, m = 1.5, torch.full((d,), shift).double()
    mean_k = integrate.quad(lambda r: (1 + 2 * r / c**2) ** -0.5 * stats.chi2.pdf(r, d), 0, math.inf)[0]
    x = m + normal(400, 60, d, generator=generator)
    values = u_statistic(imq_stein_kernel(x, -x, c))
    assert abs(float(values.mean()) - float(m @ m) * mean_k) < 4 * float(values.std()) / 20


def test_ksd_does_not_change_when_points_and_model_are_moved_together(generator):
    """A rotation and a shift of the points, the scores turned with them; and another order of the points."""
    x, s = normal(30, 3, generator=generator), normal(30, 3, generator=generator)
    turn, _ = torch.linalg.qr(normal(3, 3, generator=generator))
    value = u_statistic(imq_stein_kernel(x, s, 0.8))
    torch.testing.assert_close(u_statistic(imq_stein_kernel(x @ turn + 5, s @ turn, 0.8)), value)
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(u_statistic(imq_stein_kernel(x[order], s[order], 0.8)), value)


def test_the_wild_bootstrap_over_all_signs(generator):
    """Mean 0 and second moment 2 sum_{i != j} h_ij^2 / (n (n - 1))^2, exactly; with all signs alike the U-statistic."""
    x, n = normal(8, 2, generator=generator), 8
    h = imq_stein_kernel(x, -x, 1.0)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n))).double()
    values = wild_bootstrap(h, signs)
    off = h - h.diagonal().diag()
    assert float(values.mean()) == pytest.approx(0.0, abs=1e-12)
    second = float(values.square().mean())
    assert second == pytest.approx(2 * float(off.square().sum()) / (n * (n - 1)) ** 2)
    assert float(bootstrap_std(h)) == pytest.approx(second**0.5)
    assert float(values[-1]) == pytest.approx(float(u_statistic(h))) == pytest.approx(float(off.sum()) / (n * (n - 1)))


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.02, 0.09), (0.4, 0.9, 1.0)])
def test_the_ksd_test_holds_its_level_and_finds_a_shift(shift, low, high, generator):
    x = normal(REPEATS, 100, 2, generator=generator)
    h = stein_kernels(x, -(x - shift), [0.2, 0.6, 2.0])
    signs = random_signs(100, REPEATS * 200, generator).view(REPEATS, 200, 100)
    value, floor, _, p = stein_test(h, signs)
    assert low <= rate(p) <= high
    assert low <= float((value > floor).double().mean()) <= high


def test_narrow_kernels_see_that_modes_are_too_wide(generator):
    """Four modes of std 1 in the data and 1.3 in the model, 20 apart: seen at width 1, and at widths 1 and 20 together,
    but not at 20 alone, where pairs of different modes drown it."""
    means = 20 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()
    law, model = (GaussianMixture(torch.ones(4).double(), means, stds=torch.tensor(s).double()) for s in (1.0, 1.3))
    x = law.sample(400, generator)
    s, w = score(lambda y: -model.log_prob(y), x), random_signs(400, 200, generator)
    narrow, wide, both = (float(stein_test(stein_kernels(x, s, c), w)[3]) for c in ([1.0], [20.0], [1.0, 20.0]))
    assert narrow < 0.01 and both < 0.01 and wide > 0.02


def ksd(**more):
    return KSD(**{"widths": [0.5, 1.0], "points": 400, "bootstraps": 200, **more})


def test_ksd_of_a_right_and_of_a_wrong_model(generator):
    """The data's own energy passes, one of twice the variance does not; samples at T are held against exp(-E / T)."""
    cov = covariance(2, generator)
    mean, factor = torch.tensor([3.0, -1.0]).double(), torch.linalg.cholesky(cov)
    data = Points(mean + normal(400, 2, generator=generator) @ factor.T)
    right, wrong = gaussian_energy(mean, torch.linalg.inv(cov)), gaussian_energy(mean, torch.linalg.inv(2 * cov))
    cold = Exact(mean, 0.25 * cov)
    with_t = ksd()(view(right, data, sampler=cold, count=400, temperature=0.25)).metrics
    without = ksd()(view(right, data, sampler=cold, count=400)).metrics
    assert with_t["ksd2_data_p"] > 0.05 and with_t["ksd2_data"] < with_t["ksd2_data_floor"]
    assert with_t["ksd2_samples_p"] > 0.05 and without["ksd2_samples_p"] < 0.01
    assert with_t["ksd2_noise"] > with_t["ksd2_samples_floor"]
    report = ksd()(view(wrong, data))
    assert report.metrics.keys() == {f"ksd2_data{end}" for end in ("", "_floor", "_z", "_p")}
    assert report.metrics["ksd2_data_p"] < 0.01 and report.metrics["ksd2_data"] > report.metrics["ksd2_data_floor"]
    assert "weights" in report.notes[0]


class BaseOnly(ScoreNetwork):
    """The Gaussian N(mean, (sigma^2 + scale^2) I) at every level."""

    def correction(self, u, sigma):
        return torch.zeros_like(u)


def test_ksd_and_fisher_take_a_score_network_at_its_lowest_level(generator):
    x = 2 + 0.5 * normal(400, 2, generator=generator).float()
    data = Known(x, GaussianMixture(torch.ones(1), torch.full((1, 2), 2.0), stds=torch.tensor(0.5)))
    model = BaseOnly(data, sigma_min=0.01, sigma_max=1.0, levels=3)
    assert ksd()(view(model, data)).metrics["ksd2_data_p"] > 0.05
    metrics = Fisher(points=400, cells=10)(view(model, data, x)).metrics
    truth, v2 = (x - 2) / 0.25, 0.01**2 + data.scale**2
    expected = 0.5 * ((x - data.mean) / v2 - truth).square().sum(1).mean()
    assert metrics["fisher_data"] == metrics["fisher_samples"] == pytest.approx(float(expected), rel=1e-4)
    assert "fisher_mode_tv" not in metrics
    data.law = data.known
    only = Fisher(points=400, cells=10)(view(model, data, x)).metrics
    assert only["fisher_mode_tv_samples"] == pytest.approx(0.0, abs=1e-12) and "fisher_mode_tv" not in only


# --- maximum mean discrepancy -------------------------------------------------------------------------------------


def test_mmd_by_labels_is_mmd_of_the_two_sets(generator):
    x, y, widths = normal(12, 3, generator=generator), 0.5 + normal(7, 3, generator=generator), [0.5, 2.0]
    order = torch.randperm(19, generator=generator)
    k, a = mean_kernel(torch.cat([x, y])[order], widths), (torch.arange(19) < 12)[order]
    values = mmd2_of_labels(k, torch.stack([a, ~a]))
    assert values.tolist() == pytest.approx([mmd2(x, y, widths)] * 2, abs=1e-14)


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.02, 0.09), (0.8, 0.9, 1.0)])
def test_the_mmd_test_holds_its_level_and_finds_a_shift(shift, low, high, generator):
    """Sets of unequal size and widths from one of them, as an evaluation has them."""
    p = []
    for _ in range(REPEATS):
        x, y = shift + normal(30, 2, generator=generator), normal(60, 2, generator=generator)
        widths = [w * float(torch.pdist(y).median()) for w in (0.25, 0.5, 1.0, 2.0)]
        p.append(permutation_test(x, y, widths, generator)[0])
    assert low <= rate(p) <= high


def test_the_spread_of_the_floor_is_that_of_new_data(generator):
    """The std over permutations against the std over 200 fresh pairs of sets, within 4 of its errors, 1/sqrt(2 * 200),
    widened to 5: the permutations' own std varies from pair to pair."""
    fresh, permuted = [], []
    for _ in range(REPEATS):
        x, y = normal(30, 2, generator=generator), normal(60, 2, generator=generator)
        fresh.append(mmd2(x, y, [1.0]))
        permuted.append(permutation_test(x, y, [1.0], generator)[1])
    ratio = float(torch.tensor(fresh).std()) / (sum(permuted) / REPEATS)
    assert ratio == pytest.approx(1.0, abs=5 / (2 * REPEATS) ** 0.5)


def test_mmd_beside_its_floor(generator):
    data = Points(normal(300, 2, generator=generator).float())
    data.train = normal(300, 2, generator=generator).float()
    good, bad = normal(100, 2, generator=generator).float(), 1 + normal(100, 2, generator=generator).float()
    evaluate = MMD(widths=[0.5, 1.0], points=300)
    fine, off = (evaluate(view(torch.sum, data, x)).metrics for x in (good, bad))
    assert fine["mmd2_p"] > 0.05 and abs(fine["mmd2"]) < 3 * fine["mmd2_floor_std"]
    assert off["mmd2_p"] < 0.01 and off["mmd2"] > 10 * fine["mmd2_floor_std"]
    assert abs(fine["mmd2_floor"]) < 3 * fine["mmd2_floor_std"]
    assert all(fine[name] == off[name] for name in ("mmd2_floor", "mmd2_floor_std")), "no sample is in the floor"


# --- classifier two-sample test -----------------------------------------------------------------------------------


def c2st(**more):
    return C2ST(**{"width": 0.5, "ridge": 0.3, "folds": 5, "permutations": 99, "points": 1000, **more})


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_c2st_accuracy_is_near_that_of_the_best_classifier(distance, generator):
    """Phi(distance / 2) for two Gaussians of unit variance. From 1,000 points each the accuracy's standard error is
    0.011, and a classifier that was learnt lies somewhat below the best: within 3 errors and 0.02 of it."""
    best = 0.5 * (1 + math.erf(distance / 2 / 2**0.5))
    x, y = normal(1000, 2, generator=generator), normal(1000, 2, generator=generator)
    x[:, 0] += distance
    accuracy = c2st().test(x, y, 1, generator)[0]
    assert best - 0.053 < accuracy < best + 0.033


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.02, 0.09), (1.0, 0.9, 1.0)])
def test_the_classifier_test_holds_its_level_and_finds_a_shift(shift, low, high, generator):
    p = []
    for _ in range(REPEATS):
        x, y = shift + normal(60, 2, generator=generator), normal(60, 2, generator=generator)
        p.append(c2st(folds=3).test(x, y, 99, generator)[1])
    assert low <= rate(p) <= high


def test_c2st_beside_its_floor(generator):
    data = Points(normal(300, 1, 3, 3, generator=generator).float())
    data.train = normal(300, 1, 3, 3, generator=generator).float()
    good, bad = normal(200, 1, 3, 3, generator=generator).float(), 1 + normal(200, 1, 3, 3, generator=generator).float()
    fine, off = (c2st()(view(torch.sum, data, x)).metrics for x in (good, bad))
    assert fine["c2st_p"] > 0.05 and off["c2st_p"] == pytest.approx(0.01) and off["c2st_accuracy"] > 0.85
    assert abs(fine["c2st_accuracy_floor"] - 0.5) < 4 * fine["c2st_accuracy_floor_std"] < 0.2
    assert fine["c2st_points"] == 400
    names = ("c2st_accuracy_floor", "c2st_accuracy_floor_std", "c2st_accuracy_noise")
    assert all(fine[name] == off[name] for name in names), "no sample is in the floor"


# --- precision, recall, density, coverage -------------------------------------------------------------------------


def test_prdc_of_points_counted_by_hand():
    """Real balls of k = 1: 0 +- 1, 1 +- 1, 2 +- 1, 10 +- 8; fake balls: 0.5 +- 0.7, 1.2 +- 0.3, 1.5 +- 0.3, 30 +- 28.5.

    0.5 lies in two real balls, 1.2 and 1.5 in two each, 30 in none; the balls of 0, 1 and 2 have a fake in them, that
    of 10 has none. The reals 0, 1, 2 and 10 lie in the fake balls of 0.5; 0.5 and 1.2; 30; and 30."""
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[0.5], [1.2], [1.5], [30.0]])
    assert prdc(real, fake, 1) == {"precision": 3 / 4, "recall": 1.0, "density": 6 / 4, "coverage": 3 / 4}
    flipped = prdc(fake, real, 1)
    assert flipped == {"precision": 1.0, "recall": 3 / 4, "density": 5 / 4, "coverage": 3 / 4}
    far = prdc(real, fake + 100, 2)
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_density_and_coverage_of_one_law_are_what_they_are_expected_to_be(generator):
    """E[density] = 1, E[coverage] by its formula, in any law: within 4 standard errors over 1,000 pairs of sets."""
    n, m, k = 30, 20, 3
    pairs = [(normal(n, 2, generator=generator), normal(m, 2, generator=generator)) for _ in range(1000)]
    values = torch.tensor([[float(v) for v in density_coverage(x, y, k)] for x, y in pairs])
    error = 4 * values.std(0) / len(pairs) ** 0.5
    assert abs(float(values[:, 0].mean()) - 1) < error[0]
    assert abs(float(values[:, 1].mean()) - expected_coverage(n, m, k)) < error[1]
    assert expected_coverage(2, 1, 1) == pytest.approx(1 / 2)


def test_prdc_tells_what_is_missing(generator):
    """Samples of one of two modes are precise and cover half; too wide ones are the other way round."""
    data = Points(normal(400, 2, generator=generator) + 8 * (torch.arange(400) % 2).unsqueeze(1))
    evaluate = PRDC(neighbours=5, points=400)
    half = evaluate(view(torch.sum, data, normal(200, 2, generator=generator))).metrics
    assert half["prdc_precision"] > 0.9 and half["prdc_recall"] < 0.55 and half["prdc_coverage"] < 0.5
    assert half["prdc_coverage_real"] > 0.9 and half["prdc_coverage_expected"] == expected_coverage(400, 200, 5)
    wide = evaluate(view(torch.sum, data, 4 + 20 * normal(200, 2, generator=generator))).metrics
    assert wide["prdc_precision"] < 0.2 and wide["prdc_recall"] > 0.8
    assert "do not exist" in str(evaluate.applies(view(torch.sum, data, data.train[:5])))


# --- modes --------------------------------------------------------------------------------------------------------

FOUR = GaussianMixture(
    torch.tensor([4.0, 3.0, 2.0, 1.0]).double(),
    torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]]).double(),
    stds=torch.tensor([[1.0], [1.0], [0.5], [0.5]]).double(),
)


def modes():
    return Modes(radius=3.0, cells=200)


def test_modes_of_samples_counted_by_hand(generator):
    """Ten samples: five at 0.5 std of mode 0, two at 2.9 and 3.1 stds of mode 2, three far from all, nearest mode 1."""
    x = torch.tensor([[0.5, 0.0]] * 5 + [[0.0, 21.45], [0.0, 21.55]] + [[26.0, 0.0]] * 3)
    data = Known(FOUR.sample(500, generator).float(), FOUR, FOUR)
    metrics = modes()(view(lambda y: -FOUR.log_prob(y.double()), data, x)).metrics
    assert metrics["modes_hit"] == 2 / 4 and metrics["modes_quality"] == pytest.approx(6 / 10) and metrics["modes"] == 4
    w, true = [0.5, 0.3, 0.2, 0.0], [0.4, 0.3, 0.2, 0.1]
    assert metrics["modes_tv"] == pytest.approx(0.1, abs=1e-6)
    expected = sum(a * math.log(a / b) for a, b in zip(w, true, strict=True) if a)
    assert metrics["modes_kl"] == pytest.approx(expected, abs=1e-6)
    assert metrics["modes_hit_real"] == 0.75 or metrics["modes_hit_real"] == 1.0
    assert metrics["modes_density_tv"] == pytest.approx(0.0, abs=1e-6)  # the nodes are float32


def test_weights_of_a_density_are_those_of_its_modes():
    """The data's law gives its own weights though its modes overlap; the same modes with other weights give those."""
    line = GaussianMixture(
        torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.5], [1.0]]).double(), stds=torch.tensor([[0.7], [0.9]])
    )
    low, high = torch.tensor([-8.0]), torch.tensor([8.0])
    own = quadrature_weights(lambda x: 5 - line.log_prob(x.double()), line, low, high, 400)
    assert own.tolist() == pytest.approx([0.3, 0.7], abs=1e-6)  # the nodes are float32
    other = GaussianMixture(torch.tensor([1.0, 1.0, 1.0, 5.0]).double(), FOUR.means, stds=FOUR.stds)
    box = torch.tensor([-10.0, -10.0]), torch.tensor([30.0, 30.0])
    found = quadrature_weights(lambda x: -other.log_prob(x.double()), FOUR, *box, 300)
    assert found.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 8, 5 / 8], abs=1e-6)
    assert total_variation(found, FOUR.odds) == pytest.approx(0.525, abs=1e-6)
    assert kl(found, FOUR.odds) == pytest.approx(
        sum(a * math.log(a / b) for a, b in zip(found, FOUR.odds, strict=True))
    )


def test_the_weights_of_exact_samples_are_unbiased(generator):
    """Overlapping modes: the mean responsibility over samples is the true weight within 4 of its standard errors."""
    blurred = GaussianMixture(FOUR.weights, FOUR.means / 10, stds=FOUR.stds)
    r = blurred.responsibilities(blurred.sample(20_000, generator))
    assert ((r.mean(0) - blurred.odds).abs() < 4 * r.std(0) / 20_000**0.5).all()
    assert r.max(1).values.mean() < 0.9


def test_modes_says_what_it_cannot_do():
    plain = Points(torch.zeros(5, 2))
    assert "no mixture" in str(modes().applies(view(torch.sum, plain)))
    high = GaussianMixture(torch.ones(2), torch.zeros(2, 3), stds=torch.ones(3))
    assert "no sampler" in str(modes().applies(view(torch.sum, Known(torch.zeros(5, 3), high, high))))


# --- Fisher divergence --------------------------------------------------------------------------------------------


def test_fisher_divergence_of_gaussians_in_both_directions(generator):
    """The difference of two Gaussian scores is A x + b: D_F under a law of mean m and covariance C is
    1/2 (tr A C A' + |A m + b|^2), exactly so on points with these moments."""
    d, x_cov, y_cov = 3, covariance(3, generator), covariance(3, generator)
    x_mean, y_mean = normal(d, generator=generator), normal(d, generator=generator)
    law = torch.distributions.MultivariateNormal(x_mean, x_cov)
    data = Known(exact_sample(x_mean, x_cov, 500, generator), law)
    samples = exact_sample(y_mean, y_cov, 700, generator)
    metrics = Fisher(points=1000, cells=10)(
        view(gaussian_energy(y_mean, torch.linalg.inv(y_cov)), data, samples)
    ).metrics
    a = torch.linalg.inv(x_cov) - torch.linalg.inv(y_cov)
    b = torch.linalg.solve(y_cov, y_mean) - torch.linalg.solve(x_cov, x_mean)

    def exact(mean, cov):
        return float(0.5 * ((a @ cov @ a.T).trace() + (a @ mean + b).square().sum()))

    assert metrics["fisher_data"] == pytest.approx(exact(x_mean, x_cov), rel=1e-9)
    assert metrics["fisher_samples"] == pytest.approx(exact(y_mean, y_cov), rel=1e-9)
    assert abs(metrics["fisher_data"] - metrics["fisher_samples"]) > 0.1 * metrics["fisher_data"]
    assert metrics["fisher_data_zero"] == pytest.approx(0.5 * float(torch.linalg.inv(x_cov).trace()), rel=1e-9)
    assert metrics["fisher_data_gaussian"] == pytest.approx(0.0, abs=1e-12)
    span = data.train.amax(0) - data.train.amin(0)
    middle = (data.train.amax(0) + data.train.amin(0)) / 2
    expected = exact(middle, span.square().diag() / 12)  # uniform on the range
    assert abs(metrics["fisher_box"] - expected) < 4 * metrics["fisher_box_se"] < 0.5 * expected


def test_fisher_under_the_data_is_blind_to_the_weights_of_distant_modes(generator):
    """Two modes ten stds apart, weights 1/2 and 1/2 in the data, 1/10 and 9/10 in the model."""
    means, stds = torch.tensor([[-5.0, 0.0], [5.0, 0.0]]).double(), torch.tensor(1.0).double()
    law = GaussianMixture(torch.ones(2).double(), means, stds=stds)
    model = GaussianMixture(torch.tensor([0.1, 0.9]).double(), means, stds=stds)
    data = Known(law.sample(2000, generator), law, law)
    metrics = Fisher(points=2000, cells=200)(view(lambda x: -model.log_prob(x), data)).metrics
    assert metrics["fisher_mode_tv"] == pytest.approx(0.4, abs=1e-3)
    assert metrics["fisher_data"] < 1e-3 * metrics["fisher_data_zero"]
    assert metrics["fisher_box"] > 100 * metrics["fisher_data"]


WITH_SCORE = ["two_moons", "eight_gaussians", "twenty_five_gaussians", "mixture", "mixture_1d", "rings", "spirals"]
WITH_SCORE += ["pinwheel", "gaussian"]


@pytest.mark.parametrize("name", WITH_SCORE)
def test_the_score_of_a_data_set_is_the_slope_of_its_log_density(name):
    """Central differences of log_prob in float64; their error is of order h^2 times the third derivative."""
    data, h = synthetic(name), 1e-5
    x = data.test[:20].double()
    found = data.score(x)
    assert found is not None and found.abs().max() > 0.1
    for i in range(x.shape[1]):
        step = torch.zeros(x.shape[1]).double()
        step[i] = h
        slope = (data.log_prob(x + step) - data.log_prob(x - step)) / (2 * h)
        torch.testing.assert_close(found[:, i], slope, rtol=1e-5, atol=1e-4)
    assert data.score(data.test[:3]).dtype == torch.float32


@pytest.mark.parametrize("name, modes", [("eight_gaussians", 8), ("twenty_five_gaussians", 25), ("mixture", 3)])
def test_data_sets_that_know_their_modes(name, modes):
    data = synthetic(name)
    mixture = mixture_of(data)
    assert mixture is not None and len(mixture.weights) == modes
    assert float(mixture.odds.sum()) == pytest.approx(1.0)


def test_data_without_a_score_say_so():
    fisher = Fisher(points=10, cells=10)
    assert "no gradient" in str(fisher.applies(view(torch.sum, synthetic("checkerboard"))))
    assert "not known" in str(fisher.applies(view(torch.sum, Points(torch.zeros(4, 2)))))
    assert mixture_of(synthetic("two_moons")) is None


def synthetic(name):
    import yaml

    from ebm_lab.cli.compose import config_dir
    from ebm_lab.core.registry import build

    values = yaml.safe_load((config_dir() / "dataset" / f"{name}.yaml").read_text())
    values.pop("defaults", None)
    return build("dataset", {**values, "train": 200, "held_out": 100})
