"""The kind: an evaluation that looks at the wrong thing (another split, start, temperature or average) and still runs.

Every number is compared with its definition on data whose three splits differ, with samples and noise that are given.
"""

import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.random import subset
from ebm_lab.core.transforms import Affine
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation._bits_per_dim import bits_per_dim
from ebm_lab.evaluation.c2st import C2ST
from ebm_lab.evaluation.density import Density
from ebm_lab.evaluation.fisher import Fisher
from ebm_lab.evaluation.flow_likelihood import FlowLikelihood
from ebm_lab.evaluation.histograms import Histograms
from ebm_lab.evaluation.ksd import KSD
from ebm_lab.evaluation.likelihood import Likelihood
from ebm_lab.evaluation.mmd import MMD, mmd2
from ebm_lab.evaluation.prdc import PRDC
from ebm_lab.evaluation.samples import Samples
from ebm_lab.evaluation.sm_loss import ScoreMatchingLoss
from ebm_lab.statistics.prdc import expected_coverage, prdc
from ebm_lab.statistics.stein import imq_stein_kernel, u_statistic
from tests.helpers import Points, gaussian_energy
from tests.known_bugs.given import Splits, Witness, energy_of, equal_sets, look
from tests.models.test_levels import LADDER, ExactMixture, gaussian_model


@pytest.fixture(params=["val", "test"])
def split(request):
    return request.param


# --- the view -----------------------------------------------------------------------------------------------------


def test_samples_are_drawn_at_the_temperature_from_start_to_end_with_the_sampler_s_state(generator):
    data, sampler = Splits(generator), Witness()
    view = EvalView(energy_of(), data, "val", sampler, 7, 6, generator, temperature=0.5, start=start_law(data))
    assert view.samples.shape == (7, 2) and [step for step, _ in view.trajectory] == [0, 2, 4, 6]
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
    far.trajectory[-1] = (6, samples + 50)
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


class Replay:
    """Gives its points, and counts who asks."""

    def __init__(self, x):
        self.x, self.asked = x, 0

    def sample(self, n, generator):
        assert n == len(self.x)
        self.asked += 1
        return self.x


BESIDE_NOISE = {
    "mmd2_noise": MMD(widths=[0.5, 2.0], points=100),
    "c2st_accuracy_noise": C2ST(width=1.0, ridge=1.0, folds=4, permutations=9, points=40),
    "prdc_coverage_noise": PRDC(neighbours=3, points=40),
    "e_noise": Samples(shown=4, frames=3),
    "ksd2_noise": KSD(widths=[1.0], points=100, bootstraps=9),
}


@pytest.mark.parametrize("name", BESIDE_NOISE)
def test_noise_is_never_the_start_of_chains_that_begin_elsewhere(name, generator):
    """Chains begin at an origin of the method, a second player say: what is called noise is drawn anew."""
    data, own = Splits(generator), lambda: torch.Generator().manual_seed(5)
    view, noise, samples = look(data, generator)
    view.generator, law = own(), Replay(noise)
    plain = BESIDE_NOISE[name](view).metrics
    there, _, _ = look(data, own(), origin=Replay(noise + 50), start=law)
    vars(there)["trajectory"] = [(0, noise + 50), (6, samples)]
    there.generator = own()
    found = BESIDE_NOISE[name](there).metrics
    assert law.asked == 1 and name in plain and found == plain


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
    assert few["flow_nll"] == pytest.approx(float(subset(e, 10).mean()), abs=2e-3)


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
    expected = float(energy_of()(start_law(data).sample(4000, generator)).mean() - held.mean())
    assert m["e_gap_noise"] == pytest.approx(expected, abs=5 * 3.0 / 40**0.5)
