"""Out-of-distribution detection: scores and numbers against scikit-learn, hand counts and closed forms."""

import pytest
import torch
from torch import nn

from ebm_lab.core.eval_view import Report
from ebm_lab.core.registry import build
from ebm_lab.evaluation._ood_scores import energy_lost
from ebm_lab.evaluation._ood_table import pair, pairs_of, verdict
from ebm_lab.evaluation.ood import OutOfDistribution, residual
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.statistics.detection import detection, intervals, numbers
from tests.datasets.test_datasets_real import write_idx
from tests.evaluation import labelled
from tests.evaluation.test_evaluation import view
from tests.helpers import Points, covariance, gaussian_energy
from tests.known_bugs.given import MALA

SETTINGS = {"points": 1000, "resamples": 20, "levels": 4, "draws": 2, "sigma": None, "shift": 2.0, "others": []}
SETTINGS |= {"refine_steps": 20, "refine_step_size": "auto"}


def test_detection_agrees_with_scikit_learn(generator):
    """Also with ties, and whatever the sets' sizes where the number does not depend on them."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    for n, m in ((200, 200), (300, 40)):
        a = (torch.randn(n, generator=generator) + 1).round(decimals=1)
        b = torch.randn(m, generator=generator).round(decimals=1)
        label, score = torch.cat([torch.ones(n), torch.zeros(m)]).numpy(), torch.cat([a, b]).numpy()
        auroc, aupr, _ = detection(a, b)
        assert auroc == pytest.approx(roc_auc_score(label, score))
        if n == m:
            assert aupr == pytest.approx(average_precision_score(label, score))
        wins = (a[:, None] > b).double() + 0.5 * (a[:, None] == b)
        assert auroc == pytest.approx(float(wins.mean()))


def test_detection_by_hand():
    """20 insiders 1 .. 20 and outsiders 0.5, 2, 2.5, 30: 95 % of the insiders are 2 and above, as three of four others;
    AUPR at equal shares: after the outsider at the top, precision climbs; all by counting."""
    inside, outside = torch.arange(1.0, 21), torch.tensor([0.5, 2.0, 2.5, 30.0])
    auroc, aupr, fpr95 = detection(inside, outside)
    assert fpr95 == 0.75
    assert auroc == pytest.approx((20 + 18.5 + 18) / 80)
    caught = [(k / 20, sum(float(o >= 21 - k) for o in outside) / 4) for k in range(1, 21)]
    assert aupr == pytest.approx(sum(tpr / (tpr + fpr) / 20 for tpr, fpr in caught))
    assert detection(torch.zeros(5), torch.zeros(9)) == (0.5, 0.5, 1.0), "no score at all"
    assert detection(torch.ones(5), torch.zeros(9)) == (1.0, 1.0, 0.0), "a perfect one"
    inside, outside = torch.tensor([1.0, 2.0, torch.inf]), torch.tensor([0.0, -torch.inf, 1.5])
    assert detection(inside, outside) == detection(inside.nan_to_num(9.0, 9.0), outside.nan_to_num(0, 0, -9.0))


def test_numbers_from_rates_are_those_of_scikit_learn(generator):
    """At every threshold, with ties."""
    for n, m in ((200, 200), (37, 150)):
        a = (torch.randn(n, generator=generator) + 1).round(decimals=1)
        b = torch.randn(m, generator=generator).round(decimals=1)
        thresholds = torch.cat([a, b]).unique().flip(0)
        rates = [(x[None] >= thresholds[:, None]).double().mean(1) for x in (a, b)]
        torch.testing.assert_close(numbers(*rates), torch.tensor(detection(a, b)).double())


def test_bootstrap_intervals_cover(generator):
    """N(1, 1) against N(0, 1): AUROC Phi(1 / sqrt 2) = 0.7602. Of 300 intervals of 95 %, 270 or more hold it (fewer:
    probability 2e-4). Their width is 3.92 standard deviations of the estimate, which 300 give to 4 %, the bootstrap's
    own quantiles from 200 resamples and its bias at 100 points to as much again."""
    hits, widths, found = 0, [], []
    for _ in range(300):
        a = torch.randn(150, generator=generator).double() + 1
        b = torch.randn(100, generator=generator).double()
        low, high = intervals(a, b, 200, generator)[0].tolist()
        hits += low < 0.76025 < high
        widths.append(high - low)
        found.append(float((a[:, None] > b).double().mean()))
    assert hits >= 270
    assert float(torch.tensor(widths).mean()) == pytest.approx(3.92 * float(torch.tensor(found).std()), rel=0.15)


def test_intensity_is_turned_and_nothing_else():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert detection(*pair("intensity", a, b))[0] == 1.0 and detection(*pair("energy", a, b))[0] == 0.0


def test_verdict_names_the_baseline_that_wins():
    metrics = {"ood_auroc_energy_x": 0.6, "ood_auroc_intensity_x": 0.7, "ood_auroc_truth_x": 0.9}
    assert "a trivial baseline beats the model: AUROC 0.700 of intensity" in verdict(
        metrics, "x", ["energy", "intensity"]
    )
    metrics["ood_auroc_energy_x"] = 0.8
    said = verdict(metrics, "x", ["energy", "intensity", "truth"])
    assert said == "ood, x: best of the model's scores is energy, AUROC 0.800; intensity alone 0.700"
    metrics["ood_auroc_nearest_x"] = 0.95
    said = verdict(metrics, "x", ["energy", "intensity", "truth", "nearest"])
    assert said.endswith("0.800; intensity alone 0.700; distance to the nearest training point 0.950")


def test_scores_that_are_no_numbers_are_named_and_left_out():
    real = {"energy": torch.tensor([0.0, torch.nan]), "distance": torch.tensor([0.0, 1.0])}
    other, report = {"energy": torch.zeros(2), "distance": torch.tensor([-torch.inf, 0.5])}, Report()
    found = pairs_of("x", real, other, report)
    assert list(found) == ["distance"] and found["distance"] == (real["distance"], other["distance"])
    assert report.notes == ["ood, x: the score 'energy' of 1 points is not a number, and left out"]
    assert verdict({"ood_auroc_distance_x": 0.8}, "x", ["distance"]) == "ood, x: no score of the model is a number"


def gaussian_view(generator, n=2000, d=2):
    """Data N(0, 4 I) and their own energy, |x|^2 / 8."""
    x = 2 * torch.randn(3 * n, d, generator=generator, dtype=torch.float64)
    data = Points(x[:n])
    data.test = x[n : 2 * n]
    energy = gaussian_energy(torch.zeros(d).double(), torch.eye(d).double() / 4)
    return view(energy, data, generator=generator)


def test_scores_of_a_gaussian_are_the_closed_forms(generator):
    """E = |x|^2 / 8: gradient -|x| / 4; typicality is the distance from the training data's mean energy."""
    seen = gaussian_view(generator)
    ood = OutOfDistribution(**SETTINGS)
    level = ood._typical_energy(seen)
    assert level == pytest.approx(float((seen.dataset.train**2).sum(1).mean()) / 8)
    x = seen.dataset.test[:100]
    scores = ood._scores(seen, x, level)
    e = (x**2).sum(1) / 8
    torch.testing.assert_close(scores["energy"].detach(), -e)
    torch.testing.assert_close(scores["gradient"], -(e / 2).sqrt())
    torch.testing.assert_close(scores["typicality"].detach(), -(e - level).abs())
    torch.testing.assert_close(scores["distance"], -(x - seen.dataset.mean).norm(dim=1))
    assert "residual" not in scores and "intensity" not in scores and not scores["constant"].any()


def test_shifted_gaussian_points_are_told_apart_as_the_law_says(generator):
    """|x + u|^2 of a Gaussian point in 2-D, shifted by |u| = 2 standard deviations, against |x|^2 of another: by Marcum
    P(chi^2_2 < noncentral chi^2_2(4)) = 1 - exp(-4 / 4) / 2 = 0.816. Standard error with 1,000 points each: 0.01."""
    metrics = OutOfDistribution(**SETTINGS)(gaussian_view(generator)).metrics
    expected = 1 - 0.5 * torch.tensor(-1.0).exp()
    assert metrics["ood_auroc_energy_shifted"] == pytest.approx(float(expected), abs=0.035)
    assert metrics["ood_auroc_energy_shifted"] == pytest.approx(metrics["ood_auroc_gradient_shifted"])
    assert metrics["ood_auroc_energy_shifted_low"] < float(expected) < metrics["ood_auroc_energy_shifted_high"]
    assert metrics["ood_auroc_constant_shifted"] == 0.5 and metrics["ood_fpr95_constant_uniform"] == 1.0


@pytest.mark.parametrize("d, energy, typicality", [(2, 0.2, 0.62663), (10, 0.01958, 0.91286), (100, 1e-11, 0.999993)])
def test_the_likelihood_prefers_what_lies_nearer_the_mode(d, energy, typicality, generator):
    """N(0, I) against N(0, I / 4): AUROC of -E by the incomplete beta function I_(1/5)(d / 2, d / 2), of typicality by
    quadrature; refined is -E times a constant. Within four standard errors of 2,000 points each: at most
    sqrt(A (1 - A) / 2000)."""
    n = 2000
    data = Points(torch.randn(n, d, generator=generator, dtype=torch.float64))
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    seen = view(gaussian_energy(torch.zeros(d).double(), torch.eye(d).double()), data, generator=generator)
    ood = OutOfDistribution(**SETTINGS)
    own, other = (ood._scores(seen, points, d / 2) for points in (x[0], 0.5 * x[1]))
    for name, expected in (("energy", energy), ("refined", energy), ("typicality", typicality)):
        found = detection(own[name].detach(), other[name].detach())[0]
        assert found == pytest.approx(expected, abs=4 * max(expected * (1 - expected), 1 / n) ** 0.5 / n**0.5)


def test_energy_lost_is_that_of_gradient_descent(generator):
    """E = x' P x / 2: (1 - eps^2 P / 2)^K x. Where a step would overshoot it is halved, for this point alone: E falls,
    and never to nan; an energy that is nan there too."""
    precision, x = covariance(3, generator), torch.randn(40, 3, generator=generator).double()
    energy = gaussian_energy(torch.zeros(3).double(), precision)
    y = x @ torch.linalg.matrix_power(torch.eye(3).double() - 0.3**2 / 2 * precision, 7)
    expected = 0.5 * ((y @ precision * y).sum(1) - (x @ precision * x).sum(1))
    torch.testing.assert_close(energy_lost(energy, x, 7, 0.3), expected)
    for eps in (3.0, 1e3):
        lost, all_of_it = energy_lost(energy, x, 200, eps), -energy(x).detach()
        assert (lost <= 0).all() and (lost >= all_of_it - 1e-12).all()
        torch.testing.assert_close(lost, all_of_it, rtol=0.05, atol=1e-3)
    steep, far = lambda x: (x**4).sum(1), torch.tensor([[0.1], [100.0]]).double()
    lost = energy_lost(steep, far, 60, 0.5)
    torch.testing.assert_close(lost[:1], energy_lost(steep, far[:1], 60, 0.5))
    assert float(lost[1]) == pytest.approx(-1e8, rel=1e-3)
    hole = lambda x: torch.where(x > 0, x, torch.nan).sum(1)  # noqa: E731
    lost = energy_lost(hole, torch.ones(1, 1), 30, 1.0)
    assert float(lost) == pytest.approx(-1, abs=0.01)


def test_the_step_of_refining_is_the_sampler_s_where_it_is_fixed(generator):
    seen = gaussian_view(generator)
    x = seen.dataset.test[:50]
    langevin = {"name": "langevin", "steps": 10, "step_size": 0.4, "noise_scale": 1.0, "clip_grad": None}
    e, scale = (x**2).sum(1) / 8, seen.dataset.scale
    for sampler, setting, size in (
        (None, "auto", 0.25),
        (build("sampler", langevin, scale=scale), "auto", 0.4),
        (build("sampler", MALA, scale=scale), "auto", 0.25),
        (build("sampler", langevin, scale=scale), 0.1, 0.1),
    ):
        seen.sampler = sampler
        ood = OutOfDistribution(**{**SETTINGS, "refine_steps": 5, "refine_step_size": setting})
        shrunk = (1 - (size * scale) ** 2 / 8) ** 5
        torch.testing.assert_close(ood._scores(seen, x, 1.0)["refined"], (shrunk**2 - 1) * e)
    without = OutOfDistribution(**{**SETTINGS, "refine_step_size": None})
    assert "refined" not in without._scores(seen, x, 1.0)


def test_a_model_with_labels_has_the_scores_of_a_classifier(generator):
    """max p and sum p log p of Bayes' classifier; bounds log K and 1. Points between the classes are told by them."""
    seen = labelled.look(generator)
    x = seen.held_out[:200]
    scores = OutOfDistribution(**SETTINGS)._scores(seen, x, 1.0)
    p = labelled.LAW.responsibilities(x)
    torch.testing.assert_close(scores["max_prob"], p.amax(1))
    torch.testing.assert_close(scores["entropy"], (p * p.log()).sum(1))
    assert not {"max_prob", "entropy"} & OutOfDistribution(**SETTINGS)._scores(gaussian_view(generator), x, 1.0).keys()
    metrics = OutOfDistribution(**SETTINGS)(seen).metrics
    assert {
        "ood_auroc_max_prob_shifted",
        "ood_fpr95_entropy_uniform",
        "ood_auroc_refined_shifted_low",
    } <= metrics.keys()


def test_the_nearest_training_point_is_a_baseline(generator):
    seen = gaussian_view(generator)
    x = torch.cat([seen.dataset.train[3:4], torch.tensor([[1e4, 0.0]]).double()])
    near = OutOfDistribution(**SETTINGS)._scores(seen, x, 1.0)["nearest"]
    assert near.tolist() == pytest.approx([0.0, float(seen.dataset.train[:, 0].max()) - 1e4], abs=1.0)
    assert "distance to the nearest training point" in OutOfDistribution(**SETTINGS)(seen).notes[0]


class ExactLevels(NoiseEnergy):
    """Data N(0, s^2 I): E(x, sigma) = |x|^2 / (2 (s^2 + sigma^2)), right at every level."""

    def __init__(self, data, s):
        super().__init__(data, 0.1, 2.0, 5)
        self.s = s

    def correction(self, u, sigma):
        v2 = sigma**2 + self.scale**2
        return 0.5 * (u * u).flatten(1).sum(1) * (v2 / (sigma**2 + self.s**2) - 1)


def test_residual_is_the_denoising_error(generator):
    """With x ~ N(0, s^2 I) and its right score, E|sigma s + z|^2 / d = s^2 / (s^2 + sigma^2) at each level; for shifted
    points, more. 4,000 points in 3 dimensions: standard error of about 1 %."""
    s, sigma = 1.5, 0.8
    x, z = (torch.randn(4000, 3, generator=generator) for _ in range(2))
    y = s * x + sigma * z
    found = residual(-y / (s**2 + sigma**2), z, sigma)
    assert float(found.mean()) == pytest.approx(s**2 / (s**2 + sigma**2), rel=0.04)
    assert torch.equal(residual(torch.zeros_like(z), z, sigma), (z**2).mean(1)), "no score: the noise itself"

    data = Points(s * x)
    data.__dict__["mean"] = torch.zeros(3)
    model = ExactLevels(data, s)
    ood = OutOfDistribution(**{**SETTINGS, "draws": 8})
    seen = view(model, data, generator=generator)
    expected = [s**2 / (s**2 + model.ladder.sigma((i + 0.5) / 4) ** 2) for i in range(4)]
    # The same noise for every point: its own |z|^2 has a standard error of sqrt(2 / 3 / 32) = 14 % over the draws.
    assert float(ood._residual(seen, data.train).mean()) == pytest.approx(sum(expected) / 4, rel=0.4)
    metrics = OutOfDistribution(**SETTINGS)(seen).metrics
    assert metrics["ood_auroc_residual_shifted"] > 0.6 and "ood_auroc_typicality_shifted" in metrics


def test_a_plain_energy_has_a_residual_where_sigma_is_given(generator):
    seen = gaussian_view(generator)
    with_sigma = OutOfDistribution(**{**SETTINGS, "sigma": 0.5})._scores(seen, seen.dataset.test[:50], 1.0)
    assert with_sigma["residual"].shape == (50,) and (with_sigma["residual"] < 0).all()


class ScoreOnly(nn.Module):
    has_energy = False


def test_a_score_network_is_judged_without_an_energy(generator):
    data = build("dataset", {"name": "gaussian", "dim": 2, "mean": 0.0, "std_min": 1.0, "std_max": 1.0,
                             "correlation": 0.0, "train": 500, "held_out": 200, "seed": 0})  # fmt: skip
    energy = {"name": "score_mlp", "hidden": [8], "activation": "silu", "sigma_min": 0.1, "sigma_max": 2.0, "levels": 4}
    model = build("energy", energy, dataset=data)
    metrics = OutOfDistribution(**SETTINGS)(view(model, data, generator=generator)).metrics
    assert {"ood_auroc_residual_shifted", "ood_auroc_gradient_uniform", "ood_auroc_truth_shifted"} <= metrics.keys()
    assert not any("energy" in name or "typicality" in name for name in metrics)
    assert metrics["ood_auroc_truth_shifted"] > 0.7


def test_other_data_sets_are_found_or_left_out_in_words(tmp_path, generator):
    """Of the same shape and there: compared. The run's own, missing ones and other shapes: not, and said."""
    write_idx(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "FashionMNIST" / "raw")
    at = {"root": str(tmp_path), "download": False, "val": 1, "seed": 0, "classes": None}
    data = build("dataset", {"name": "mnist", **at})
    others = [{"name": name, **at} for name in ("mnist", "fashion_mnist", "cifar10")]
    others.append({"name": "digits", "val": 0.1, "test": 0.1, "seed": 0, "classes": None})
    others.append({"name": "mnist", **at, "root": None})
    ood = OutOfDistribution(**{**SETTINGS, "others": others})
    seen = view(lambda x: x.flatten(1).square().sum(1), data, generator=generator)
    report = ood(seen)
    sets = {name.rpartition("_")[2] for name in report.metrics if name.startswith("ood_auroc_energy")}
    assert "mnist" in sets and "ood_auroc_energy_fashion_mnist" in report.metrics
    assert "ood_auroc_energy_mnist" not in report.metrics and "ood_auroc_energy_digits" not in report.metrics
    said = "\n".join(report.notes)
    assert "cifar10 is left out: dataset.root=" in said and "digits is left out: its images are (1, 8, 8)" in said
    assert "mnist is left out: the run's data have no folder" in said
    assert report.images["ood_sets"].shape[0] == 3


def test_classes_outside_the_splits_are_a_set(generator):
    """An energy that is the distance to the nearest training image of digits 0 to 7 tells 8 and 9 apart; a constant
    energy tells nothing."""
    data = build("dataset", {"name": "digits", "val": 0.15, "test": 0.15, "seed": 0, "classes": list(range(8))})

    def nearest(x):
        return torch.cdist(x.flatten(1), data.train.flatten(1)).amin(1)

    metrics = OutOfDistribution(**SETTINGS)(view(nearest, data, generator=generator)).metrics
    assert metrics["ood_auroc_energy_outside"] > 0.9
    flat = OutOfDistribution(**SETTINGS)(view(lambda x: 0 * x.flatten(1).sum(1), data, generator=generator))
    assert flat.metrics["ood_auroc_energy_outside"] == 0.5 and flat.metrics["ood_fpr95_energy_outside"] == 1.0
    assert any("outside: a trivial baseline beats the model" in note for note in flat.notes)
