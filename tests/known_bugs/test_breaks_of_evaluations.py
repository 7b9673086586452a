"""The kind: an evaluation that looks at the wrong thing (another split, start, temperature or average) and still runs.

Every number is compared with its definition on data whose three splits differ, with samples and noise that are given.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from ebm_lab.core.bits import bits_per_dim
from ebm_lab.core.distributions import IsotropicGaussian
from ebm_lab.core.frechet import feature_distance, polynomial_mmd2
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.mixtures import GaussianMixture
from ebm_lab.core.neighbours import expected_coverage, prdc
from ebm_lab.core.stein import imq_stein_kernel, u_statistic
from ebm_lab.core.transforms import Affine
from ebm_lab.core.view import EvalView
from ebm_lab.evaluation import inpainting
from ebm_lab.evaluation.c2st import C2ST
from ebm_lab.evaluation.chains import Chains
from ebm_lab.evaluation.classifier import Classifier
from ebm_lab.evaluation.density import Density
from ebm_lab.evaluation.feature_fid import FeatureFID
from ebm_lab.evaluation.fid import FID, fids
from ebm_lab.evaluation.fisher import Fisher
from ebm_lab.evaluation.flow_likelihood import FlowLikelihood
from ebm_lab.evaluation.histograms import Histograms
from ebm_lab.evaluation.inpainting import Inpainting
from ebm_lab.evaluation.ksd import KSD
from ebm_lab.evaluation.likelihood import Likelihood
from ebm_lab.evaluation.longrun import LongRun, apart
from ebm_lab.evaluation.mmd import MMD, mmd2
from ebm_lab.evaluation.modes import Modes
from ebm_lab.evaluation.ood import OutOfDistribution
from ebm_lab.evaluation.prdc import PRDC
from ebm_lab.evaluation.samples import Samples
from ebm_lab.evaluation.sm_loss import ScoreMatchingLoss
from tests.helpers import Drift, Points, gaussian_energy
from tests.test_levels import LADDER, ExactMixture, gaussian_model

MALA = {"name": "mala", "steps": 5, "step_size": 0.3, "temperature": 1.0, "mass": "identity", "warmup": None}
MALA |= {"target_acceptance": 0.7, "adapt_rate": 0.02}
LAW = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())


class Splits(Points):
    """N(0, I), N(1, 4 I) and N(-1, 9 I) in the three splits, of 60, 50 and 40 points; the true law is N(0, I)."""

    def __init__(self, generator, shape=(2,), bounds=None):
        def draw(n, mean, std):
            return mean + std * torch.randn(n, *shape, generator=generator, dtype=torch.float64)

        super().__init__(draw(60, 0, 1), bounds)
        self.val, self.test = draw(50, 1, 2), draw(40, -1, 3)

    def log_prob(self, x):
        return LAW.log_prob(x.double()) if self.event_shape == (2,) else None


def energy_of(d=2):
    """E = |x - 0.5|^2."""
    energy = gaussian_energy(torch.full((d,), 0.5).double(), 2 * torch.eye(d).double())
    return energy.requires_grad_(False)


def look(data, generator, energy=None, split="test", n=60, sampler=None, **more):
    """A view whose samples and noise are given: n of each, of laws of their own."""
    settings = {"steps": 6, "generator": generator, **more}
    view = EvalView(energy or energy_of(), data, split, sampler or Drift(), n, **settings)
    shape = (n, *data.event_shape)
    noise, samples = (m + torch.randn(*shape, generator=generator, dtype=torch.float64) for m in (3.0, 0.3))
    view.__dict__["film"] = [(0, noise), (6, samples)]
    return view, noise, samples


class Witness(Sampler):
    """Stays where it is, and remembers the energies and the states that it was given."""

    steps = 2

    def __init__(self):
        self.energies, self.starts = [], []

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        self.energies.append(energy)
        self.starts += [] if state else [x]
        return Chain(x, {"seen": torch.ones(1)}, {"acceptance": torch.tensor(0.25 * len(self.energies))}, 0)


def copied(monkeypatch, module):
    """`markov` copies the run's sampler; let it be the witness itself."""
    monkeypatch.setattr(f"ebm_lab.evaluation.{module}.markov", lambda view, kernel: view.sampler)


@pytest.fixture(params=["val", "test"])
def split(request):
    return request.param


def equal_sets(a, b):
    """The same rows, in any order."""
    return a.shape == b.shape and torch.equal(a.flatten(1).sort(0).values, b.flatten(1).sort(0).values)


# --- the view -----------------------------------------------------------------------------------------------------


def test_samples_are_drawn_at_the_temperature_from_start_to_end_with_the_sampler_s_state(generator):
    data, sampler = Splits(generator), Witness()
    view = EvalView(energy_of(), data, "val", sampler, 7, 6, generator, temperature=0.5)
    assert view.samples.shape == (7, 2) and [step for step, _ in view.film] == [0, 2, 4, 6]
    x = data.test
    assert all(torch.allclose(e(x), 2 * energy_of()(x)) for e in sampler.energies) and len(sampler.energies) == 3
    assert len(sampler.starts[0]) == 7, "no more chains than samples"
    assert len(sampler.starts) == 1, "what the sampler returned is handed to its next call"
    assert float(view.chain_metrics["acceptance"]) == 0.75, "the last call's"
    assert view.held_out is data.val and EvalView(torch.sum, data, "test", None, 1, 1, generator).held_out is data.test


# --- two-sample tests ---------------------------------------------------------------------------------------------


def test_mmd_compares_samples_training_points_and_noise_with_held_out_data(split, generator):
    data = Splits(generator)
    view, noise, samples = look(data, generator, split=split)
    m, held = MMD(widths=[0.5, 2.0], points=100)(view).metrics, getattr(data, split)
    widths = [w * float(torch.pdist(held).median()) for w in (0.5, 2.0)]
    for name, x in (("mmd2", samples), ("mmd2_floor", data.train), ("mmd2_noise", noise)):
        assert m[name] == pytest.approx(mmd2(x, held, widths), rel=1e-9)
    far, _, _ = look(data, generator, split=split)
    far.film[-1] = (6, samples + 50)
    m_far = MMD(widths=[0.5, 2.0], points=100)(far).metrics
    assert m_far["mmd2_floor_std"] == pytest.approx(m["mmd2_floor_std"], rel=0.5), "samples have no part in the floor"


def test_the_permutation_test_asks_for_the_value_of_the_sets_as_they_are(generator, monkeypatch):
    """5 points against 9: the observed labelling is the first five, all others have five as well."""
    from ebm_lab.evaluation import mmd

    asked, of_labels = [], mmd.mmd2_of_labels
    monkeypatch.setattr(mmd, "mmd2_of_labels", lambda k, a: asked.append(a) or of_labels(k, a))
    x, y = torch.randn(5, 2, generator=generator).double(), torch.randn(9, 2, generator=generator).double()
    mmd.permutation_test(x, y, [1.0], generator)
    (own,) = (a for a in asked if len(a) == 1)
    assert own[0].tolist() == [True] * 5 + [False] * 9
    assert all(bool((a.sum(1) == 5).all()) for a in asked) and sum(map(len, asked)) == 1 + mmd.PERMUTATIONS


def test_mmd_takes_no_more_held_out_points_than_asked(generator):
    data = Splits(generator)
    view, _, samples = look(data, generator)
    data.test = torch.cat([data.test[:1]] * 30 + [data.test])  # whichever 10 are taken, all 70 are another set
    m = MMD(widths=[1.0], points=10)(view).metrics
    width = float(torch.pdist(data.test).median())
    assert m["mmd2"] != pytest.approx(mmd2(samples, data.test, [width or 1.0]), rel=1e-6)


def test_mmd_s_floor_has_as_many_training_points_as_there_are_samples(generator, monkeypatch):
    data, sizes = Splits(generator), []
    monkeypatch.setattr("ebm_lab.evaluation.mmd.mmd2", lambda x, y, widths: sizes.append(len(x)) or 0.0)
    MMD(widths=[1.0], points=100)(look(data, generator, n=25)[0])
    assert sizes == [25, 25, 25] and len(data.train) == 60


def test_c2st_compares_samples_training_points_and_noise_with_held_out_data(split, generator, monkeypatch):
    data, seen = Splits(generator), []
    data.train, data.val = data.train[:40], data.val[:40]
    view, noise, samples = look(data, generator, split=split, n=40)

    def test(self, x, y, permutations, _):
        seen.append((x, y, permutations))
        return 0.1 * len(seen), 0.01 * len(seen), 0.001 * len(seen)

    monkeypatch.setattr(C2ST, "test", test)
    settings = {"width": 0.5, "ridge": 0.3, "folds": 4, "permutations": 9}
    m = C2ST(**settings, points=100)(view).metrics
    held = getattr(data, split)
    for (x, y, times), (expected, count) in zip(seen, ((samples, 9), (data.train, 9), (noise, 1)), strict=True):
        assert equal_sets(x, expected) and equal_sets(y, held) and times == count
    names = ["accuracy", "p", "accuracy_noise", "points", "accuracy_floor", "accuracy_floor_std"]
    assert [m[f"c2st_{n}"] for n in names] == pytest.approx([0.1, 0.01, 0.3, 80, 0.2, 0.002])
    C2ST(**settings, points=12)(view)
    assert [len(x) for x, _, _ in seen[3:]] == [12] * 3


def test_c2st_takes_points_in_random_order_and_its_settings_as_they_are(generator, monkeypatch):
    """x are ordered by place, y too: folds of neighbours would be told apart by chance alone. Labels go with their
    points; the spread is that over the given permutations."""
    seen = []

    def accuracies(z, labels, width, ridge, folds):
        seen.append((z, labels, width, ridge, folds))
        return torch.linspace(0, 1, len(labels)).double()

    monkeypatch.setattr("ebm_lab.evaluation.c2st.accuracies", accuracies)
    x, y = torch.arange(20.0).view(20, 1), 100 + torch.arange(20.0).view(20, 1)
    value, p, spread = C2ST(width=0.7, ridge=0.2, folds=5, permutations=3, points=99).test(x, y, 4, generator)
    z, labels, *settings = seen[0]
    assert settings == [0.7, 0.2, 5] and labels.shape == (5, 40)
    assert torch.equal(labels[0] > 0, (z < 50)[:, 0]), "the first row says who is who"
    assert (z[1:] - z[:-1]).abs().median() > 5
    assert (value, p) == (0.0, 1.0) and spread == pytest.approx(float(torch.tensor([0.25, 0.5, 0.75, 1]).var(
        correction=0).sqrt()))  # fmt: skip


def test_the_classifier_of_c2st_is_kernel_ridge_regression_by_definition(generator):
    """f = K (K + ridge I)^-1 y over the other fold's points, k = exp(-r^2 / (2 w^2)), w = width * median distance."""
    from ebm_lab.evaluation.c2st import accuracies

    z, labels = torch.randn(12, 2, generator=generator).double(), torch.ones(1, 12).double()
    labels[0, ::2] = -1
    w, right = 0.6 * float(torch.pdist(z).median()), 0
    for test in (torch.arange(12) < 6, torch.arange(12) >= 6):
        own, other = z[test], z[~test]
        k, across = ((-torch.cdist(a, other).square() / (2 * w * w)).exp() for a in (other, own))
        f = across @ torch.linalg.solve(k + 0.05 * torch.eye(6).double(), labels[0, ~test])
        right += int((f.sign() == labels[0, test]).sum())
    assert float(accuracies(z, labels, 0.6, 0.05, 2)[0]) == pytest.approx(right / 12)


def test_prdc_compares_samples_training_points_and_noise_with_held_out_data(split, generator):
    data = Splits(generator)
    view, noise, samples = look(data, generator, split=split)
    m, held = PRDC(neighbours=3, points=100)(view).metrics, getattr(data, split)
    for end, x in (("", samples), ("_real", data.train), ("_noise", noise)):
        for name, value in prdc(held, x, 3).items():
            assert m[f"prdc_{name}{end}"] == pytest.approx(value, abs=1e-12)
    assert m["prdc_coverage_expected"] == expected_coverage(len(held), 60, 3) != expected_coverage(60, len(held), 3)


# --- the score ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ksd_is_the_mean_over_widths_of_held_out_data_samples_and_noise(split, temperature, generator):
    """Widths in medians of the training's distances; samples and noise by the score of E / T, data by that of E."""
    data = Splits(generator)
    view, noise, samples = look(data, generator, split=split, temperature=temperature)
    m = KSD(widths=[0.5, 2.0], points=100, bootstraps=400)(view).metrics
    unit = float(torch.pdist(data.train).median())

    def by_width(x, t):
        kernels = [imq_stein_kernel(x, -2 * (x - 0.5) / t, w * unit) for w in (0.5, 2.0)]
        return torch.stack([u_statistic(h) for h in kernels]), torch.stack(kernels)

    for name, x, t in (("data", getattr(data, split), 1.0), ("samples", samples, temperature)):
        values, h = by_width(x, t)
        assert m[f"ksd2_{name}"] == pytest.approx(float(values.mean()), rel=1e-9)
        n = len(x)
        off = h - torch.diag_embed(h.diagonal(dim1=1, dim2=2))
        std = (2 * off.square().sum((1, 2))).sqrt() / (n * (n - 1))
        assert m[f"ksd2_{name}_z"] == pytest.approx(float((values / std).max()), rel=1e-9)
        signs = 2.0 * torch.randint(2, (4000, n), generator=generator).double() - 1
        null = (torch.einsum("bi,wij,bj->wb", signs, off, signs) / (n * (n - 1))).mean(0)
        spread = float(null.quantile(0.97) - null.quantile(0.92))  # 400 draws know a 95 % point to about 1 %
        assert abs(m[f"ksd2_{name}_floor"] - float(null.quantile(0.95))) < 1.5 * spread
    assert m["ksd2_noise"] == pytest.approx(float(by_width(noise, temperature)[0].mean()), rel=1e-9)


@pytest.mark.parametrize("train, held, fits", [(2, 2, True), (1, 9, False), (9, 1, False)])
def test_ksd_asks_for_two_points_of_both_splits(train, held, fits, generator):
    data = Splits(generator)
    data.train, data.test = data.train[:train], data.test[:held]
    reason = KSD(widths=[1.0], points=100, bootstraps=9).applies(look(data, generator)[0])
    assert (reason is None) == fits


def test_fisher_s_errors_are_those_of_means_and_its_gaussian_is_the_training_s(split, generator):
    """s - s_data = -2 (x - 0.5) + x: D_F of each law by hand, with std / sqrt(n); the box is the held-out data's."""
    data = Splits(generator)
    view, _, samples = look(data, generator, split=split)
    m, held = Fisher(points=100, cells=10)(view).metrics, getattr(data, split)
    for law, x in (("data", held), ("samples", samples)):
        values = 0.5 * (1 - x).square().sum(1)
        assert m[f"fisher_{law}"] == pytest.approx(float(values.mean()), rel=1e-9)
        assert m[f"fisher_{law}_se"] == pytest.approx(float(values.std()) / len(x) ** 0.5, rel=0.02)
    assert m["fisher_data_zero"] == pytest.approx(float(0.5 * held.square().sum(1).mean()), rel=1e-9)
    mean, cov = data.train.mean(0), data.train.T.cov(correction=0)
    wrong = -torch.linalg.solve(cov, (held - mean).T).T + held
    assert m["fisher_data_gaussian"] == pytest.approx(float(0.5 * wrong.square().sum(1).mean()), rel=1e-9)
    low, high = held.amin(0), held.amax(0)
    second = ((high - low).square() / 12 + ((high + low) / 2).square()).sum()
    # Of 40 points or more: a standard error of 10 %. The training's range has a tenth of this.
    assert m["fisher_box_zero"] == pytest.approx(float(0.5 * second), rel=0.4)


def test_sm_loss_s_errors_are_those_of_the_loss_and_of_its_gap(split, generator):
    """E = |x - 0.5|^2: J = 1/2 |2 (x - 0.5)|^2 - 4, that of the truth 1/2 |x|^2 - 2, point by point."""
    data = Splits(generator)
    view, _, _ = look(data, generator, split=split)
    m, x = ScoreMatchingLoss(exact_dim=8, projections=1, points=100)(view).metrics, getattr(data, split)
    j, true = 2 * (x - 0.5).square().sum(1) - 4, 0.5 * x.square().sum(1) - 2
    n = len(x) ** 0.5
    found = [m[f"sm_{k}"] for k in ("loss", "loss_se", "loss_true", "gap", "gap_se")]
    expected = [j.mean(), j.std() / n, true.mean(), (j - true).mean(), (j - true).std() / n]
    assert found == pytest.approx([float(v) for v in expected], rel=1e-4)


# --- likelihood ---------------------------------------------------------------------------------------------------


def test_likelihood_of_each_split_by_one_evaluation(generator):
    """nll = mean E + log Z on the split asked for, after the other one too; log_z_error is learnt minus true."""
    data, evaluation = Splits(generator), Likelihood(cells=50)
    for split in ("val", "test", "val"):
        x = getattr(data, split)
        view, _, _ = look(data, generator, split=split, learnt_log_z=0.25)
        m, log_z = evaluation(view).metrics, math.log(math.pi)
        nll = float((x - 0.5).square().sum(1).mean()) + log_z
        true = float(0.5 * x.square().sum(1).mean()) + math.log(2 * math.pi)
        found = [m[k] for k in ("log_z", "nll", "nll_true", "nll_gap", "log_z_error")]
        assert found == pytest.approx([log_z, nll, true, nll - true, 0.25 - log_z], rel=1e-9)


@pytest.mark.parametrize("d, by_quadrature", [(1, True), (2, True), (3, False)])
def test_log_z_without_a_formula_is_known_in_one_and_two_dimensions(d, by_quadrature, generator):
    view, _, _ = look(Splits(generator, (d,)), generator, energy=lambda x: (x - 0.5).square().sum(1))
    evaluation = Likelihood(cells=100)
    assert (evaluation.applies(view) is None) == by_quadrature
    if by_quadrature:
        assert evaluation(view).metrics["log_z"] == pytest.approx(d / 2 * math.log(math.pi), abs=1e-3)


class Three(Points):
    def log_prob(self, x):
        return -0.5 * x.square().sum(1)


@pytest.mark.parametrize("exact_dim", [0, 8])
def test_flow_likelihood_is_that_of_the_held_out_points_with_its_errors(exact_dim, generator):
    """Data N(m, s^2 I), whose field has a diagonal Jacobian: with signs v the estimate of its trace is exact. The test
    split, its mean's error; `flow_error` is that of half the steps, and falls as the fourth power of the step."""
    model, like, m = gaussian_model(generator, d=3)
    data = Three(like.train)
    data.test = m + 1.3 * torch.randn(50, 3, generator=generator).double()
    view = EvalView(model, data, "test", None, 4, 4, generator)
    found = FlowLikelihood(steps=24, exact_dim=exact_dim, points=1000)(view).metrics
    e, true = model.energy(data.test, 0.1), data.log_prob(data.test)
    assert found["flow_nll"] == pytest.approx(float(e.mean()), abs=2e-3)
    assert found["flow_nll_se"] == pytest.approx(float(e.std()) / 50**0.5, rel=1e-2)
    assert found["flow_nll_gap"] == pytest.approx(float((true + e).mean()), abs=2e-3)
    coarse = FlowLikelihood(steps=12, exact_dim=exact_dim, points=1000)(view).metrics
    fine = FlowLikelihood(steps=48, exact_dim=exact_dim, points=1000)(view).metrics
    assert 6 < coarse["flow_error"] / found["flow_error"] < 40 and found["flow_error"] > 5 * fine["flow_error"] > 0
    few = FlowLikelihood(steps=24, exact_dim=exact_dim, points=10)(view).metrics
    assert few["flow_nll"] == pytest.approx(float(e[:10].mean()), abs=2e-3)


def test_flow_likelihood_takes_the_exact_divergence_up_to_exact_dim(generator):
    """For a field whose Jacobian is not diagonal, an estimate with random signs differs from the exact trace."""
    means, weights = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double(), torch.ones(2).double() / 2
    data = Points(GaussianMixture(weights, means, torch.tensor(0.5).double()).sample(80, generator))
    model = ExactMixture(data, weights, means, 0.5, **{**LADDER, "sigma_max": 20.0})
    values = {}
    for exact_dim in (1, 2):
        for seed in (0, 1):
            view = EvalView(model, data, "test", None, 4, 4, torch.Generator().manual_seed(seed))
            values[exact_dim, seed] = FlowLikelihood(steps=30, exact_dim=exact_dim, points=80)(view).metrics["flow_nll"]
    assert values[2, 0] == values[2, 1] and values[1, 0] != values[1, 1]
    assert values[2, 0] == pytest.approx(float(model.energy(data.test, 0.1).mean()), abs=2e-2)


def test_flow_likelihood_of_images_is_in_bits_too(generator):
    model, like, _ = gaussian_model(generator, d=4)
    data = Points(like.train, (-1.0, 1.0))
    data.transform = Affine(torch.tensor(8.0), torch.tensor(4.0))
    found = FlowLikelihood(steps=20, exact_dim=8, points=30)(EvalView(model, data, "test", None, 4, 4, generator))
    assert found.metrics["flow_bits_per_dim"] == pytest.approx(bits_per_dim(found.metrics["flow_nll"], data))
    expected = (found.metrics["flow_nll"] + 4 * math.log(4)) / (4 * math.log(2))  # one raw unit is 1/4 in model space
    assert found.metrics["flow_bits_per_dim"] == pytest.approx(expected) and found.notes


def test_a_density_is_drawn_of_the_energy_at_hand(generator):
    data = Splits(generator)
    pictures = [
        Density(cells=20)(look(data, torch.Generator().manual_seed(0), energy=e)[0]).images["density"]
        for e in (energy_of(), energy_of(), gaussian_energy(torch.ones(2).double(), torch.eye(2).double()))
    ]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    line = Points(torch.randn(100, 1, generator=generator).double())
    assert Density(cells=20)(look(line, generator, energy=energy_of(1))[0]).images["density"].dtype == torch.uint8
    applies = Density(cells=20).applies
    assert applies(look(data, generator)[0]) is None and applies(look(line, generator)[0]) is None
    for shape in ((3,), (1, 2, 2)):
        assert "1 and 2 dimensions" in str(applies(look(Splits(generator, shape), generator)[0]))


# --- energies -----------------------------------------------------------------------------------------------------


def test_samples_energies_are_those_of_held_out_data_samples_and_noise(split, generator):
    data = Splits(generator)
    view, noise, samples = look(data, generator, split=split)
    view.chain_metrics = {"acceptance": torch.tensor(0.7)}
    m, e = Samples(shown=4, frames=3)(view).metrics, energy_of()
    for name, x in (("data", getattr(data, split)), ("samples", samples), ("noise", noise)):
        assert m[f"e_{name}"] == pytest.approx(float(e(x).mean()), rel=1e-9)
    assert m["energy_gap"] == pytest.approx(m["e_data"] - m["e_samples"])
    assert m["sample_acceptance"] == pytest.approx(0.7)


def test_histograms_gaps_are_from_the_held_out_mean_and_shares_from_the_held_out_median(split, generator):
    data = Splits(generator)
    data.outside = torch.full((5, 2), 9.0).double()
    view, _, samples = look(data, generator, split=split)
    samples += 20
    m, e = Histograms(points=100, bins=10)(view).metrics, energy_of()
    held = e(getattr(data, split)).detach()
    median = held.sort().values[(len(held) - 1) // 2]
    assert m["e_std"] == pytest.approx(float(held.std()), rel=1e-9)
    for name, x in (("train", data.train), ("samples", samples), ("outside", data.outside)):
        assert m[f"e_gap_{name}"] == pytest.approx(float(e(x).mean() - held.mean()), rel=1e-9)
        assert m[f"e_lower_{name}"] == pytest.approx(float((e(x) < median).double().mean()))
    expected = float(energy_of()(data.start.sample(4000, generator)).mean() - held.mean())
    assert m["e_gap_noise"] == pytest.approx(expected, abs=5 * 3.0 / 40**0.5)


# --- chains -------------------------------------------------------------------------------------------------------


def test_chains_and_long_runs_start_where_they_say_at_the_run_s_temperature(generator, monkeypatch):
    """From noise (mean 0, scale 1 of the training split), training data and, in long runs, persistent chains."""
    data = Splits(generator)
    long = {"multiples": [1, 3], "chains": 60, "max_steps": 100, "tolerance": 0.5, "widths": [1.0], "kernel": MALA}
    watch = {"chains": 60, "warmup": 1, "length": 2, "projections": 2, "kernel": MALA}
    for module, evaluation in (("longrun", LongRun(1.0, **long)), ("chains", Chains(1.0, **watch))):
        copied(monkeypatch, module)
        sampler = Witness()
        kept = 40 + torch.randn(60, 2, generator=generator).double()
        evaluation(look(data, generator, sampler=sampler, temperature=0.5, chains=kept)[0])
        noise, train, *buffer = sampler.starts
        assert equal_sets(train, data.train) and not any(bool((row == data.train).all(1).any()) for row in noise)
        assert abs(float(noise.mean())) < 0.4 and float(noise.std()) == pytest.approx(data.scale, rel=0.3)
        assert [equal_sets(b, kept) for b in buffer] == ([True] if module == "longrun" else [])
        assert all(torch.allclose(e(data.test), 2 * energy_of()(data.test)) for e in sampler.energies)


def test_long_runs_draw_their_starts_at_random(generator):
    data = Splits(generator)
    long = LongRun(1.0, multiples=[1], chains=20, max_steps=9, tolerance=0.5, widths=[1.0], kernel=MALA)
    view, _, _ = look(data, generator, chains=torch.arange(120.0).view(60, 2).double())
    first, second = long._starts(view), long._starts(view)
    for name in ("data", "buffer"):
        assert len(first[name]) == 20 and not equal_sets(first[name], second[name])


def test_long_runs_numbers_are_those_of_their_definitions(generator, monkeypatch):
    """A sampler that adds 1 to every coordinate in a call of 3 steps; 3 and 9 steps are 1 and 3 calls."""
    data, e = Splits(generator), energy_of()
    long = LongRun(1.0, multiples=[1, 3], chains=60, max_steps=100, tolerance=0.7, widths=[0.5, 1.0], kernel=MALA)
    view, _, _ = look(data, generator, sampler=Drift(1.0), steps=3)
    asked = []
    monkeypatch.setattr("ebm_lab.evaluation.longrun.verdict", lambda *given: asked.append(given) or "said")
    report, held = long(view), data.test
    m, real = report.metrics, e(held)
    assert torch.equal(asked[0][2], real) and asked[0][3] == pytest.approx(0.7 * float(real.std()))
    assert (m["longrun_e_data"], m["longrun_e_std"]) == pytest.approx((float(real.mean()), float(real.std())))
    widths = [w * float(torch.pdist(held).median()) for w in (0.5, 1.0)]

    def moments(x):
        square = (x.mean(0) - held.mean(0)).square() + (x.std(0) - held.std(0)).square()
        return float(square.mean().sqrt()) / data.scale

    for name, x in (("floor", data.train), ("data_1", data.train + 1), ("data_3", data.train + 3)):
        assert m[f"longrun_mmd2_{name}"] == pytest.approx(mmd2(x, held, widths), rel=1e-9)
        assert m[f"longrun_moments_{name}"] == pytest.approx(moments(x), rel=1e-9)
    end = [m["longrun_e_data_3"], m["longrun_e_noise_3"]]
    assert m["longrun_e_data_3"] == pytest.approx(float(e(data.train + 3).mean()), rel=1e-9)
    drift = max(abs(value - float(real.mean())) for value in end) / float(real.std())
    assert m["longrun_drift"] == pytest.approx(drift, rel=1e-9) and "within 0.7 std" in report.notes[0]


def test_means_are_apart_beyond_s_and_three_standard_errors_of_their_difference():
    """Both of variance 4: errors 4 / 100 + 4 / 400 = 0.05, three of them 0.671; s = 1."""
    a = torch.linspace(-1, 1, 100).double()
    a, b = (2 * (x - x.mean()) / x.std() for x in (a, torch.linspace(-1, 1, 400).double()))
    assert not apart(a + 1.6, b, 1.0) and apart(a + 1.75, b, 1.0) and apart(b - 1.75, a, 1.0)
    assert apart(a + torch.nan, b, 1e9)


def test_watched_chains_are_counted_from_the_warm_up_on(generator):
    """A sampler of 3 steps that adds 1 in each call: the start and 6 steps are left out, 10 calls are watched; energies
    of every state, projections v . x / scale of unit v."""
    data = Splits(generator)
    chains = Chains(1.0, chains=60, warmup=1, length=5, projections=4, kernel=MALA)
    view, _, _ = look(data, generator, sampler=Drift(1.0), steps=6)
    v = torch.eye(2).double()
    every, watched, acceptance = chains._watch(view, view.sampler, data.train, v)
    assert every.shape == (60, 13) and watched.shape == (3, 60, 10) and acceptance is None
    torch.testing.assert_close(every[:, 0], energy_of()(data.train).detach())
    torch.testing.assert_close(watched[1], data.train[:, :1] + torch.arange(3.0, 13.0).double())
    seen = []
    chains._watch = lambda view, sampler, x, v: seen.append(v) or (every, watched, None)
    data.__dict__["scale"] = 4.0
    report = chains(view)
    assert torch.allclose(seen[0].norm(dim=1), torch.full((4,), 0.25).double()) and len(seen) == 2
    assert report.metrics["chain_draws"] == 600
    assert "rhat_energy" in report.metrics, "over the chains of both starts"


def test_rhat_over_both_starts_sees_that_they_do_not_meet(generator):
    data = Splits(generator)
    chains = Chains(1.0, chains=8, warmup=1, length=5, projections=1, kernel=MALA)
    draws = {0: torch.randn(2, 8, 100, generator=generator).double()}
    draws[1] = draws[0] + 9
    calls = iter((0, 1))

    def watch(*_):
        own = draws[next(calls)]
        return own[0], own, 0.5

    chains._watch = watch
    m = chains(look(data, generator, sampler=Drift(1.0))[0]).metrics
    assert m["rhat_energy_noise"] < 1.1 and m["rhat_energy_data"] < 1.1 and m["rhat_energy"] > 1.5 and m["rhat_x"] > 1.5


# --- modes --------------------------------------------------------------------------------------------------------


def test_modes_of_training_points_stand_beside_those_of_samples(generator):
    """Two modes; samples all in one, training points in both by the share that is drawn; radius 1 counts 39 % hits."""
    law = GaussianMixture(torch.ones(2).double(), torch.tensor([[0.0, 0.0], [30.0, 0.0]]).double(),
                          stds=torch.tensor(1.0).double())  # fmt: skip
    data = Splits(generator)
    data.mixture, data.train = law, law.sample(400, generator)
    view, _, _ = look(data, generator, n=400)
    samples = law.sample(800, generator)
    samples = torch.cat([samples[samples[:, 0] < 15]] * 2)[:400]
    view.film[-1] = (6, samples)
    m = Modes(radius=1.0, cells=30)(view).metrics
    for end, x in (("", samples), ("_real", data.train)):
        share = float((x[:, 0] > 15).double().mean())
        assert m[f"modes_tv{end}"] == pytest.approx(abs(share - 0.5), abs=1e-9)
        distance = torch.cdist(x, law.means).amin(1)
        assert m[f"modes_quality{end}"] == pytest.approx(float((distance <= 1).double().mean()))
    assert 0.3 < m["modes_quality"] < 0.5 and m["modes_tv_real"] < 0.1


def test_the_weights_of_a_density_count_half_a_range_beyond_the_data(generator):
    """Modes at 0 and 12; the training points happen to begin at 0 and to end at 15: a box of just that range would cut
    the first mode in two."""
    law = GaussianMixture(torch.ones(2).double(), torch.tensor([[0.0, 0.0], [12.0, 0.0]]).double(),
                          stds=torch.tensor(1.0).double())  # fmt: skip
    data = Splits(generator)
    data.mixture, data.train = law, torch.tensor([[0.0, -4.0], [15.0, 4.0], [12.0, 0.0]]).double()
    view, _, _ = look(data, generator, energy=lambda x: -law.log_prob(x.double()), sampler=Drift())
    assert Modes(radius=1.0, cells=200)(view).metrics["modes_density_tv"] < 1e-3


# --- images -------------------------------------------------------------------------------------------------------


class Pixels(Splits):
    """Images (1, 2, 2) with labels that say whether the first pixel is above 0."""

    def __init__(self, generator):
        super().__init__(generator, (1, 2, 2), (-1.0, 1.0))
        self.labels = {s: (getattr(self, s)[:, 0, 0, 0] > 0).long() for s in ("train", "val", "test")}


def flat_energy(x):
    return (x.flatten(1) - 0.5).square().sum(1)


class ByFirstPixel:
    """A classifier whose probability of class 1 is a sigmoid of the first pixel; it takes 1/2 and less for class 0."""

    def predict_proba(self, x):
        p = 1 / (1 + (-torch.as_tensor(x)[:, :1]).exp())
        return torch.cat([1 - p, p], 1).numpy()

    def predict(self, x):
        return (x[:, 0] > 0).astype(int)


def test_classifier_numbers_are_those_of_clamped_samples_held_out_images_and_noise(split, generator, monkeypatch):
    data, fitted = Pixels(generator), []
    data.labels[split] = data.labels[split].clone()
    data.labels[split][:10] = 1 - data.labels[split][:10]  # ten wrong labels in this split alone
    view, _, samples = look(data, generator, energy=flat_energy, split=split)
    evaluation = Classifier(confident=0.7, hidden=4, points=1000, passes=10)
    monkeypatch.setattr(Classifier, "_fit", lambda self, x, y: fitted.append((x, y)) or ByFirstPixel())
    m, held, clamped = evaluation(view).metrics, getattr(data, split), samples.clamp(-1, 1)
    assert torch.equal(fitted[0][0], data.train) and torch.equal(fitted[0][1], data.labels["train"])

    def sure(x):
        p = x[:, 0, 0, 0].sigmoid()
        return (torch.maximum(p, 1 - p) > 0.7), (p > 0.5).long()

    for name, x in (("", clamped), ("_real", held)):
        assert m[f"confident_share{name}"] == pytest.approx(float(sure(x)[0].double().mean()))
    assert 0.05 < m["confident_share"] < m["confident_share_real"]
    chance = (1 - math.log(0.7 / 0.3)) * 1000  # pixels uniform on [-1, 1], sure beyond log(0.7 / 0.3)
    assert m["confident_share_noise"] == pytest.approx(
        chance / 1000, abs=4 * (chance * (1 - chance / 1000)) ** 0.5 / 1000
    )
    chosen = sure(clamped)[1][sure(clamped)[0]]
    p = torch.bincount(chosen, minlength=2).double() / len(chosen)
    assert m["class_entropy"] == pytest.approx(float(torch.special.entr(p).sum()), rel=1e-5)
    assert m["classes_found"] == float((p > 0).sum())
    assert m["classifier_accuracy"] == pytest.approx(1 - 10 / len(held))
    for name, x in (("", clamped), ("_real", held)):
        expected = torch.cdist(x.flatten(1), data.train.flatten(1)).amin(1).mean()
        assert m[f"nearest_distance{name}"] == pytest.approx(float(expected), rel=1e-6)


class FlatNet:
    def features(self, x):
        return x.flatten(1)

    def accuracy(self, x, y):
        return float(len(x) + 1000 * y.sum())


def test_feature_distances_are_from_training_images_to_clamped_samples_and_the_baselines(split, generator):
    data = Pixels(generator)
    settings = {"network": {}, "mixture": {}, "reference": 45, "subsets": 3, "subset_size": 1000}
    evaluation = FeatureFID.__new__(FeatureFID)
    vars(evaluation).update(settings)
    held, made = getattr(data, split), 5 + torch.randn(99, 1, 2, 2, generator=generator).double()
    evaluation._ready = (FlatNet(), SimpleNamespace(sample=lambda n, g: made[:n]))
    view, _, samples = look(data, generator, energy=flat_energy, split=split)
    m, n, reference = evaluation(view).metrics, len(held), data.train[:45].flatten(1)
    clouds = {"": samples[:n].clamp(-1, 1), "_floor": held, "_mixture": made[:n]}
    for end, x in clouds.items():
        assert m[f"feature_fid{end}"] == pytest.approx(feature_distance(x.flatten(1), reference), rel=1e-6)
        assert m[f"feature_kid{end}"] == pytest.approx(polynomial_mmd2(x.flatten(1), reference), rel=1e-6, abs=1e-9)
    noise = data.start.sample(4000, generator).flatten(1).double()
    assert m["feature_fid_noise"] == pytest.approx(feature_distance(noise, reference), rel=0.5)
    assert m["feature_accuracy"] == n + 1000 * float(data.labels[split].sum())
    assert (m["feature_samples"], m["feature_reference"]) == (n, 45)


class MeanMetric:
    """In torchmetrics' place: the difference of the mean bytes of fake and real images."""

    def __init__(self):
        self.seen = {True: [], False: []}

    def update(self, x, real):
        assert x.dtype == torch.uint8
        self.seen[real].append(x.double())

    def reset(self):
        self.seen[False] = []

    def compute(self):
        fake, real = (torch.cat(self.seen[k]).mean() for k in (False, True))
        return fake - real


def test_fid_of_samples_and_of_its_floor_each_alone(split, generator, monkeypatch):
    data = Pixels(generator)
    view, _, samples = look(data, generator, energy=flat_energy, split=split)
    fid = FID(weights="none", reference=30, batch_size=7)
    monkeypatch.setattr(FID, "_metric", lambda self: MeanMetric())
    m, held = fid(view).metrics, getattr(data, split)

    def grey(x):
        return float(((x.clamp(-1, 1) + 1) * 127.5).round().mean())

    real = grey(data.train[:30])
    assert m["fid"] == pytest.approx(grey(samples[: len(held)]) - real, abs=1.0)
    assert m["fid_floor"] == pytest.approx(grey(held) - real, abs=1.0)
    assert (m["fid_samples"], m["fid_reference"]) == (len(held), 30)
    alone = [fids(MeanMetric(), data.train, [x], (-1.0, 1.0), 7)[0] for x in (samples, held)]
    assert fids(MeanMetric(), data.train, [samples, held], (-1.0, 1.0), 7) == pytest.approx(alone)


def test_inpainting_s_errors_are_those_of_the_hole(split, generator, monkeypatch):
    """One completion, the mean of three, the mean image, and the training image whose known pixels are nearest."""
    data = Pixels(generator)
    view, _, _ = look(data, generator, energy=flat_energy, split=split)
    evaluation = Inpainting(1.0, hole="lower", images=20, completions=3, kernel=MALA)
    real, seen = getattr(data, split)[:20], []
    draws = torch.randn(60, 1, 2, 2, generator=generator).double().exp()

    def draw(self, view, x, unknown):
        seen.append(x)
        return torch.where(unknown, draws, x)

    monkeypatch.setattr(Inpainting, "_draw", draw)
    m = evaluation(view).metrics
    assert torch.equal(seen[0].unflatten(0, (20, 3)), real[:, None].expand(20, 3, 1, 2, 2)), "copies lie side by side"
    hole, by_image = real[:, 0, 1], draws.unflatten(0, (20, 3))[:, :, 0, 1]
    nearest = torch.cdist(real[:, 0, 0], data.train[:, 0, 0]).argmin(1)
    guesses = {"mse": by_image[:, 0], "mse_mean": by_image.mean(1), "mse_mean_image": data.train.mean(0)[0, 1],
               "mse_nearest": data.train[nearest, 0, 1]}  # fmt: skip
    for name, guess in guesses.items():
        assert m[f"inpaint_{name}"] == pytest.approx(float((guess - hole).square().mean()), rel=1e-9)


def test_inpainting_samples_the_run_s_target_from_noise(generator, monkeypatch):
    """At temperature 1/2 the energy of the hole is twice as steep; its pixels begin uniform, not at the truth."""
    data, sampler = Pixels(generator), Witness()
    copied(monkeypatch, "inpainting")
    view, _, _ = look(data, generator, energy=flat_energy, sampler=sampler, temperature=0.5)
    evaluation = Inpainting(1.0, hole="right", images=20, completions=2, kernel=MALA)
    x = data.test[:20].repeat_interleave(2, 0)
    unknown = inpainting.hole_mask("right", (1, 2, 2))
    done, u = evaluation._draw(view, x, unknown), torch.randn(40, 2, generator=generator).double()
    whole = x.clone()
    whole[:, 0, :, 1] = u
    torch.testing.assert_close(sampler.energies[0](u), 2 * flat_energy(whole))
    start = sampler.starts[0]
    assert start.shape == (40, 2) and float(start.abs().max()) <= 1 and float(start.std()) == pytest.approx(
        3**-0.5, rel=0.25)  # fmt: skip
    assert torch.equal(done[:, 0, :, 1], start) and torch.equal(done[:, 0, :, 0], x[:, 0, :, 0])


def test_pinned_pixels_have_the_law_of_their_level(generator):
    """N(x_k, sigma^2 I): score (x_k - x) / sigma^2, a level for all or one for each; the others keep the model's."""
    model, _, _ = gaussian_model(generator, d=4)
    given, x = torch.randn(2, 5, 4, generator=generator).double()
    unknown = torch.tensor([True, True, False, False])
    pinned = inpainting.Pinned(model, given, unknown)
    for sigma in (0.5, torch.linspace(0.2, 2, 5).double()):
        wide = torch.as_tensor(sigma).reshape(-1, 1)
        found = pinned.score(x, sigma)
        torch.testing.assert_close(found[:, 2:], ((given - x) / wide**2)[:, 2:])
        torch.testing.assert_close(found[:, :2], model.score(x, sigma)[:, :2])


# --- out of distribution ------------------------------------------------------------------------------------------

OOD = {"points": 1000, "resamples": 20, "levels": 3, "draws": 4, "sigma": None, "shift": 2.0, "others": []}


def test_ood_scores_are_those_of_their_definitions(split, generator):
    """E = |x - 0.5|^2; the level of typicality is the training's mean energy, and both sides of it count."""
    data, e = Splits(generator), energy_of()
    view, _, _ = look(data, generator, split=split)
    ood, x = OutOfDistribution(**OOD), torch.randn(30, 2, generator=generator).double()
    level = ood._typical_energy(view)
    assert level == pytest.approx(float(e(data.train).mean()), rel=1e-6)
    scores = ood._scores(view, x, level)
    known = {"energy": -e(x), "typicality": -(e(x) - level).abs(), "gradient": -2 * (x - 0.5).norm(dim=1),
             "truth": LAW.log_prob(x), "distance": -(x - data.train.mean(0)).norm(dim=1),
             "constant": torch.zeros(30)}  # fmt: skip
    assert scores.keys() == known.keys()
    for name, values in known.items():
        torch.testing.assert_close(scores[name].double(), values.detach().double(), rtol=1e-6, atol=1e-6)
    assert (e(x) < level).any() and (e(x) > level).any()
    images = Pixels(generator)
    seen, _, _ = look(images, generator, energy=flat_energy, split=split)
    intensity = ood._scores(seen, images.test, 0.0)["intensity"]
    torch.testing.assert_close(intensity, images.test.mean((1, 2, 3)))


def test_ood_sets_are_what_they_are_called(split, generator):
    """Interpolations are means of two held-out images; shifted points lie 2 scales away; the box reaches a quarter of
    the training's range beyond it."""
    from ebm_lab.core.view import Report

    data, ood = Splits(generator), OutOfDistribution(**OOD)
    held = getattr(data, split)
    sets = ood._sets(look(data, generator, split=split)[0], Report())
    assert list(sets) == ["held-out", "uniform", "shifted"] and torch.equal(sets["held-out"], held)
    torch.testing.assert_close((sets["shifted"] - held).norm(dim=1), torch.full((len(held),), 2 * data.scale).double())
    low, high = data.train.amin(0), data.train.amax(0)
    inside = (sets["uniform"] - low) / (high - low)
    assert float(inside.min()) > -0.25 and float(inside.max()) < 1.25
    assert float(inside.min()) < -0.1 and float(inside.max()) > 1.1
    images = Pixels(generator)
    images.outside = images.val[:3]
    sets = ood._sets(look(images, generator, energy=flat_energy, split=split)[0], Report())
    held = getattr(images, split)
    torch.testing.assert_close(sets["interpolation"], (held + torch.cat([held[-1:], held[:-1]])) / 2)
    assert torch.equal(sets["outside"], images.val[:3]) and float(sets["uniform"].abs().max()) <= 1


def test_ood_residuals_are_means_over_levels_and_draws(generator):
    """With the score of nothing, |z|^2 / d: over 3 levels and 4 draws its mean is 1, its noise that of 12 |z|^2 / d;
    every point, and every set, meets the same noises. With the right score of a delta at 0 it is exactly 0."""
    data = Points(torch.zeros(50, 6))
    data.__dict__ |= {"mean": torch.zeros(6), "scale": 1.0}

    class Model(ExactMixture):
        def score(self, x, sigma, create_graph=False):
            self.asked.append(float(sigma))
            return -x / sigma**2 if self.right else torch.zeros_like(x)

    model = Model(data, torch.ones(1), torch.zeros(1, 6), 1.0, **LADDER)
    model.asked, model.right = [], False
    ood, view = OutOfDistribution(**OOD), EvalView(model, data, "test", None, 4, 4, generator)
    found = ood._residual(view, data.test)
    assert float(found.std()) < 1e-6 and float(found.mean()) == pytest.approx(1, abs=4 * (2 / 72) ** 0.5)
    expected = [model.ladder.sigma((i + 0.5) / 3) for i in range(3)]
    assert sorted(set(model.asked)) == pytest.approx(sorted(expected)) and len(model.asked) == 12
    model.right = True
    torch.testing.assert_close(ood._residual(view, data.test), torch.zeros(50), atol=1e-6, rtol=0)

    plain, asked = OutOfDistribution(**{**OOD, "sigma": 0.5, "draws": 2}), []

    def energy(x):
        asked.append(x.detach())
        return 0 * x.sum(1)

    data.__dict__["scale"] = 8.0
    plain._residual(EvalView(energy, data, "test", None, 4, 4, generator), data.test)
    assert float(torch.cat(asked).std()) == pytest.approx(0.5 * 8, rel=0.6), "sigma is in units of the data's scale"


def test_ood_gives_every_set_the_same_noises(generator):
    data = Splits(generator)
    seen = []
    ood = OutOfDistribution(**{**OOD, "sigma": 0.5})
    scores = ood._scores

    def spy(view, x, level):
        seen.append(view.generator.get_state())
        return scores(view, x, level)

    ood._scores = spy
    ood(look(data, generator)[0])
    assert len(seen) == 3 and all(torch.equal(state, seen[0]) for state in seen)


def test_noise_at_the_start_is_the_training_split_s():
    """What chains begin from, and every `_noise` number: N(mean, scale^2 I) of the training split."""
    data = Splits(torch.Generator().manual_seed(0))
    start = data.start
    assert isinstance(start, IsotropicGaussian)
    x = start.sample(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.mean(0), data.train.mean(0), atol=0.05, rtol=0)
    assert float(x.std(0).mean()) == pytest.approx(data.scale, rel=0.03)
