"""Samples of a class, judged by a classifier of the real data: exact samplers, closed forms."""

import pytest
import torch

from ebm_lab.core import eval_view
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import reason_against
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.random import subset
from ebm_lab.core.registry import build
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.evaluation import conditional
from ebm_lab.evaluation._judge import judge
from ebm_lab.evaluation.conditional import Conditional, samples_of_classes
from ebm_lab.runs.defaults import evaluation_settings
from ebm_lab.statistics.frechet import feature_distance
from tests.evaluation.labelled import LAW, look
from tests.evaluation.test_evaluation import view
from tests.helpers import Drift
from tests.known_bugs.given import MALA

SETTINGS = {"hidden": 32, "points": 2000, "passes": 60_000}


class OfClass(Sampler):
    """Draws from the law of the class that the energy is bound to; keeps starts and energies that it was given."""

    steps = 2

    def __init__(self, law=LAW):
        self.law, self.starts, self.calls = law, [], []

    def begin(self, energy, x, generator):
        self.starts.append(x)
        return {}

    def __call__(self, energy, x, state, *, generator, differentiable=False):
        self.calls.append((energy, x))
        z = torch.empty_like(x).normal_(generator=generator)
        inner = energy if "y" in energy.bound else energy.energy
        return Chain(self.law.means[inner.bound["y"]] + self.law.stds * z, {}, {}, 0)


def test_each_class_gets_samples_of_its_own_law(generator, monkeypatch):
    """In batches too: means within 4.5 standard errors, in the right rows."""
    monkeypatch.setattr(eval_view, "NUMBERS", 1)
    monkeypatch.setattr(conditional, "NUMBERS", 1)
    sampler = OfClass()
    seen = look(generator, sampler=sampler, steps=6)
    x = samples_of_classes(seen, 3, 300)
    assert x.shape == (3, 300, 2)
    torch.testing.assert_close(x.mean(1), LAW.means, atol=4.5 / 300**0.5, rtol=0)
    assert [len(start) for start in sampler.starts] == [500, 400] and len(sampler.calls) == 2 * 3, "6 steps, 2 a call"


def test_chains_are_those_of_a_run(generator):
    """They begin at noise, or at the method's own origin, and are drawn from exp(-E(x, c) / T) by exact chains: means
    and variances T s^2 within 4.5 standard errors of 400 chains a class."""
    sampler = build("sampler", MALA, scale=1.0)
    sampler.steps = 60
    seen = look(generator, sampler=sampler, steps=240)
    seen.temperature = 0.25
    x = samples_of_classes(seen, 3, 400)
    torch.testing.assert_close(x.mean(1), LAW.means, atol=4.5 * 0.5 / 400**0.5, rtol=0)
    torch.testing.assert_close(x.var(1), torch.full((3, 2), 0.25).double(), atol=4.5 * 0.25 * (2 / 400) ** 0.5, rtol=0)

    for origin in (None, IsotropicGaussian(torch.tensor([50.0, 50.0]).double(), 1.0)):
        spy = OfClass()
        seen = look(generator, sampler=spy)
        seen.origin = origin
        samples_of_classes(seen, 3, 100)
        where = seen.dataset.mean if origin is None else torch.tensor([50.0, 50.0]).double()
        torch.testing.assert_close(spy.starts[0].mean(0), where, atol=1.0, rtol=0)


def test_exact_samples_reach_the_ceiling_and_the_floor(generator):
    """With classes as frequent as in the data or not, the share of class c is P(judge says c | c). From the same draws
    of a known law: within four standard errors of what the judge says of 20,000 fresh points of each class."""
    seen = look(generator, sampler=OfClass())
    report = Conditional(per_class=300, **SETTINGS)(seen)
    m, judged = report.metrics, judge(seen.dataset, **SETTINGS)
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    shares = torch.tensor([float((judged.classes(mean + z) == c).double().mean()) for c, mean in enumerate(LAW.means)])
    error = float((shares * (1 - shares) / 300).sum()) ** 0.5 / 3
    assert m["asked_class_share"] == pytest.approx(float(shares.mean()), abs=4 * error)
    assert m["asked_class_lowest"] == pytest.approx(float(shares.min()), abs=4 * (0.25 / 300) ** 0.5)
    right = judged.classes(seen.held_out) == seen.dataset.labels["test"]
    assert m["asked_class_share_real"] == pytest.approx(float(right.double().mean())) and right.double().mean() > 0.85
    assert m["conditional_distance"] < 3 * m["conditional_distance_real"] and m["conditional_samples"] == 300
    assert report.images["samples_by_class"].shape[0] == 3 and "seen least often" in report.notes[0]
    again = Conditional(per_class=300, **SETTINGS)(look(torch.Generator().manual_seed(0), sampler=OfClass()))
    assert again.metrics == m, "it follows from the generator"


def test_distances_are_those_of_the_judge_s_hidden_layer(generator):
    """Recomputed from scikit-learn's weights, for every class."""
    seen = look(generator, sampler=OfClass(), n=300)
    judged = judge(seen.dataset, **SETTINGS)
    x = samples_of_classes(seen, 3, 40)
    found = conditional.distances(judged, x, seen)
    data, net = seen.dataset, judged.model
    at = lambda x: torch.relu(  # noqa: E731
        (x - data.train.mean(0)) / data.train.std(0, correction=0) @ torch.from_numpy(net.coefs_[0])
        + torch.from_numpy(net.intercepts_[0])
    )
    spread = at(data.train).var(0).mean().sqrt()
    every, floor = [], []
    for c in range(3):
        own = at(data.train[data.labels["train"] == c]) / spread
        real = subset(data.test[data.labels["test"] == c], 40)
        every.append(feature_distance(at(x[c]) / spread, own))
        floor.append(feature_distance(at(real) / spread, own))
    assert found["conditional_samples"] == 40
    assert found["conditional_distance"] == pytest.approx(sum(every) / 3, rel=1e-6)  # roots of singular covariances
    assert found["conditional_distance_real"] == pytest.approx(sum(floor) / 3, rel=1e-6)


def test_what_is_wrong_shows(generator):
    """Classes in another order: the shares go; samples that are all alike: the shares stay and the distance tells."""
    good = Conditional(per_class=100, **SETTINGS)(look(generator, sampler=OfClass())).metrics
    turned = GaussianMixture(LAW.weights, LAW.means[[1, 2, 0]], LAW.stds)
    wrong = Conditional(per_class=100, **SETTINGS)(look(generator, sampler=OfClass(turned))).metrics
    assert wrong["asked_class_share"] < 0.1 < 0.85 < good["asked_class_share"]
    alike = OfClass(GaussianMixture(LAW.weights, LAW.means, torch.tensor(0.01).double()))
    alike = Conditional(per_class=100, **SETTINGS)(look(generator, sampler=alike)).metrics
    assert alike["asked_class_share"] >= good["asked_class_share"]
    assert alike["conditional_distance"] > 5 * good["conditional_distance"]


def test_images_are_clamped_judged_and_drawn_by_class(generator):
    """Three mean images of 4x4 pixels, with noise of .3: all classes are told apart; the picture has their rows. A
    sample beyond white counts as white."""
    means = torch.stack([torch.full((1, 4, 4), v).double() for v in (-0.8, 0.0, 0.8)])
    law = GaussianMixture(torch.ones(3).double(), means, torch.tensor(0.3).double())
    seen = look(generator, law=law, bounds=(-1.0, 1.0), sampler=OfClass(law), n=300)
    seen.dataset.class_names = ["dark", "grey", "light"]
    report = Conditional(per_class=20, **SETTINGS)(seen)
    assert report.metrics["asked_class_share"] > 0.95 and report.metrics["asked_class_share_real"] > 0.95
    height, width = report.images["samples_by_class"].shape[1:]
    assert (width, height) == (830, 225), "ten columns, three rows"
    bright = OfClass(GaussianMixture(law.weights, 1e6 * means + 1e6, law.stds))
    white = Conditional(per_class=20, **SETTINGS)(look(generator, law=law, bounds=(-1.0, 1.0), sampler=bright, n=300))
    plain = Conditional(per_class=20, **SETTINGS)(look(generator, law=law, sampler=bright, n=300))
    assert white.metrics["conditional_distance"] < 1e-3 * plain.metrics["conditional_distance"]


def test_classes_of_few_points_have_no_distance(generator):
    seen = look(generator, sampler=OfClass(), n=60)
    seen.dataset.labels["test"] = torch.zeros(60).long()
    found = Conditional(per_class=5, **SETTINGS)(seen).metrics
    assert found["conditional_samples"] == 5, "class 0 alone"
    seen.dataset.test, seen.dataset.labels["test"] = seen.dataset.test[:1], torch.zeros(1).long()
    found = Conditional(per_class=5, **SETTINGS)(seen).metrics
    assert "conditional_distance" not in found and "asked_class_share" in found


def test_runs_that_can_not_are_left_out_in_words(generator):
    evaluation = Conditional(per_class=5, **SETTINGS)
    seen = look(generator, sampler=OfClass())
    assert reason_against(evaluation, seen) is None and evaluation.silent
    assert "no sampler" in str(reason_against(evaluation, look(generator)))
    falling = Drift()
    falling._offers = frozenset()
    assert "goes down noise levels" in str(reason_against(evaluation, look(generator, sampler=falling)))
    plain = view(lambda x: x.sum(1), seen.dataset, sampler=OfClass())
    assert reason_against(evaluation, plain) == "the model has no class labels"
    seen.dataset.labels["train"] = torch.zeros(2000).long()
    assert "two classes" in str(reason_against(evaluation, seen))


def test_chains_that_ran_away_are_told(generator):
    lost = OfClass(GaussianMixture(LAW.weights, torch.full((3, 2), torch.nan).double(), LAW.stds))
    with pytest.raises(UserError, match="conditional: 15 of 15 samples are not finite"):
        Conditional(per_class=5, **SETTINGS)(look(generator, sampler=lost))


def test_it_is_built_from_its_yaml():
    found = build("evaluation", evaluation_settings("conditional", {}), "evaluation.conditional")
    assert found.settings == {"hidden": 128, "points": 10_000, "passes": 130_000}, "as those of evaluation=classifier"
    classifier = evaluation_settings("classifier", {})
    assert all(classifier[name] == value for name, value in found.settings.items())
