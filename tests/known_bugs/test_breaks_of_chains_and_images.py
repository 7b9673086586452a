"""The kind: an evaluation of chains, images or outliers that looks at the wrong start, split, image or noise.

Every number is compared with its definition, as in test_breaks_of_evaluations.py.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.random import row_order, subset
from ebm_lab.core.registry import build
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation import inpainting
from ebm_lab.evaluation._ood_sets import sets_of
from ebm_lab.evaluation.chains import Chains
from ebm_lab.evaluation.classifier import Classifier
from ebm_lab.evaluation.feature_fid import FeatureFID
from ebm_lab.evaluation.fid import FID, fids
from ebm_lab.evaluation.inpainting import Inpainting
from ebm_lab.evaluation.longrun import LongRun, differ
from ebm_lab.evaluation.mmd import mmd2
from ebm_lab.evaluation.modes import Modes
from ebm_lab.evaluation.ood import OutOfDistribution
from ebm_lab.statistics.frechet import feature_distance, polynomial_mmd2
from ebm_lab.statistics.prdc import prdc
from tests.helpers import Drift, Points
from tests.known_bugs.given import LAW, MALA, Splits, Witness, copied, energy_of, equal_sets, look
from tests.models.test_levels import LADDER, ExactMixture, gaussian_model


@pytest.fixture(params=["val", "test"])
def split(request):
    return request.param


KERNEL = build("sampler", MALA, scale=1.0)

# --- chains -------------------------------------------------------------------------------------------------------


def test_chains_and_long_runs_start_where_they_say_at_the_run_s_temperature(generator, monkeypatch):
    """From noise (mean 0, scale 1 of the training split), training data and, in long runs, persistent chains."""
    data = Splits(generator)
    long = {"multiples": [1, 3], "chains": 60, "max_steps": 100, "tolerance": 0.5, "widths": [1.0], "kernel": KERNEL}
    watch = {"chains": 60, "warmup": 1, "length": 2, "projections": 2, "kernel": KERNEL}
    for module, evaluation in (("longrun", LongRun(**long)), ("chains", Chains(**watch))):
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
    long = LongRun(multiples=[1], chains=20, max_steps=9, tolerance=0.5, widths=[1.0], kernel=KERNEL)
    view, _, _ = look(data, generator, chains=torch.arange(120.0).view(60, 2).double())
    first, second = long._starts(view), long._starts(view)
    for name in ("data", "buffer"):
        assert len(first[name]) == 20 and not equal_sets(first[name], second[name])


def test_long_runs_numbers_are_those_of_their_definitions(generator, monkeypatch):
    """A sampler that adds 1 to every coordinate in a call of 3 steps; 3 and 9 steps are 1 and 3 calls."""
    data, e = Splits(generator), energy_of()
    long = LongRun(multiples=[1, 3], chains=60, max_steps=100, tolerance=0.7, widths=[0.5, 1.0], kernel=KERNEL)
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
    assert not differ(a + 1.6, b, 1.0) and differ(a + 1.75, b, 1.0) and differ(b - 1.75, a, 1.0)
    assert differ(a + torch.nan, b, 1e9)


def test_watched_chains_are_counted_from_the_warm_up_on(generator):
    """A sampler of 3 steps that adds 1 in each call: the start and 6 steps are left out, 10 calls are watched; energies
    of every state, projections v . x / scale of unit v."""
    data = Splits(generator)
    chains = Chains(chains=60, warmup=1, length=5, projections=4, kernel=KERNEL)
    view, _, _ = look(data, generator, sampler=Drift(1.0), steps=6)
    v = torch.eye(2).double()
    every, watched, acceptance = chains._record(view, view.sampler, data.train, v)
    assert every.shape == (60, 13) and watched.shape == (3, 60, 10) and acceptance is None
    torch.testing.assert_close(every[:, 0], energy_of()(data.train).detach())
    torch.testing.assert_close(watched[1], data.train[:, :1] + torch.arange(3.0, 13.0).double())
    seen = []
    chains._record = lambda view, sampler, x, v: seen.append(v) or (every, watched, None)
    data.__dict__["scale"] = 4.0
    report = chains(view)
    assert torch.allclose(seen[0].norm(dim=1), torch.full((4,), 0.25).double()) and len(seen) == 2
    assert report.metrics["chain_draws"] == 600
    assert "rhat_energy" in report.metrics, "over the chains of both starts"


def test_rhat_over_both_starts_sees_that_they_do_not_meet(generator):
    data = Splits(generator)
    chains = Chains(chains=8, warmup=1, length=5, projections=1, kernel=KERNEL)
    draws = {0: torch.randn(2, 8, 100, generator=generator).double()}
    draws[1] = draws[0] + 9
    calls = iter((0, 1))

    def watch(*_):
        own = draws[next(calls)]
        return own[0], own, 0.5

    chains._record = watch
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
    view.trajectory[-1] = (6, samples)
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
    settings = {"network": {}, "mixture": {}, "reference": 45, "subsets": 3, "subset_size": 1000, "neighbours": 2}
    evaluation = FeatureFID.__new__(FeatureFID)
    vars(evaluation).update(settings)
    held, made = getattr(data, split), 5 + torch.randn(99, 1, 2, 2, generator=generator).double()
    evaluation._ready = (FlatNet(), SimpleNamespace(sample=lambda n, g: made[:n]))
    view, _, samples = look(data, generator, energy=flat_energy, split=split)
    m, n, reference = evaluation(view).metrics, len(held), subset(data.train, 45).flatten(1)
    clouds = {"": samples[:n].clamp(-1, 1), "_floor": held, "_mixture": made[:n]}
    for end, x in clouds.items():
        assert m[f"feature_fid{end}"] == pytest.approx(feature_distance(x.flatten(1), reference), rel=1e-6)
        assert m[f"feature_kid{end}"] == pytest.approx(polynomial_mmd2(x.flatten(1), reference), rel=1e-6, abs=1e-9)
        near = prdc(reference[:n], x.flatten(1), 2)
        assert [m[f"feature_{name}{end}"] for name in ("density", "coverage")] == [near["density"], near["coverage"]]
    noise = start_law(data).sample(4000, generator).flatten(1).double()
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

    real = grey(subset(data.train, 30))
    assert m["fid"] == pytest.approx(grey(samples[: len(held)]) - real, abs=1.0)
    assert m["fid_floor"] == pytest.approx(grey(held) - real, abs=1.0)
    assert (m["fid_samples"], m["fid_reference"]) == (len(held), 30)
    alone = [fids(MeanMetric(), data.train, [x], (-1.0, 1.0), 7)[0] for x in (samples, held)]
    assert fids(MeanMetric(), data.train, [samples, held], (-1.0, 1.0), 7) == pytest.approx(alone)


def test_inpainting_s_errors_are_those_of_the_hole(split, generator, monkeypatch):
    """One completion, the mean of three, the mean image, and the training image whose known pixels are nearest."""
    data = Pixels(generator)
    view, _, _ = look(data, generator, energy=flat_energy, split=split)
    evaluation = Inpainting(hole="lower", images=20, completions=3, kernel=KERNEL)
    real, seen = subset(getattr(data, split), 20), []
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
    evaluation = Inpainting(hole="right", images=20, completions=2, kernel=KERNEL)
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
OOD |= {"refine_steps": 20, "refine_step_size": "auto"}


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
             "constant": torch.zeros(30), "nearest": -torch.cdist(x, data.train).amin(1)}  # fmt: skip
    shrunk = (1 - (0.25 * data.scale) ** 2) ** 20  # x - 0.5 after 20 steps of a quarter of the data's scale
    known["refined"] = (shrunk**2 - 1) * e(x)
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
    from ebm_lab.core.eval_view import Report

    data, asked = Splits(generator), [OOD[key] for key in ("points", "others", "shift")]
    held = getattr(data, split)
    sets = sets_of(look(data, generator, split=split)[0], *asked, Report())
    assert list(sets) == ["held-out", "uniform", "shifted"] and torch.equal(sets["held-out"], held)
    torch.testing.assert_close((sets["shifted"] - held).norm(dim=1), torch.full((len(held),), 2 * data.scale).double())
    low, high = data.train.amin(0), data.train.amax(0)
    inside = (sets["uniform"] - low) / (high - low)
    assert float(inside.min()) > -0.25 and float(inside.max()) < 1.25
    assert float(inside.min()) < -0.1 and float(inside.max()) > 1.1
    images = Pixels(generator)
    images.outside = images.val[:3]
    sets = sets_of(look(images, generator, energy=flat_energy, split=split)[0], *asked, Report())
    held = getattr(images, split)
    mixed = held[row_order(len(held))]
    torch.testing.assert_close(sets["interpolation"], (mixed + torch.cat([mixed[-1:], mixed[:-1]])) / 2)
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
    start = start_law(data)
    assert isinstance(start, IsotropicGaussian)
    x = start.sample(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.mean(0), data.train.mean(0), atol=0.05, rtol=0)
    assert float(x.std(0).mean()) == pytest.approx(data.scale, rel=0.03)
