"""Class probabilities of exact models with labels, against Bayes and closed forms."""

import pytest
import torch

from ebm_lab.core.eval_view import reason_against
from ebm_lab.core.registry import build
from ebm_lab.evaluation.calibration import label_kl
from tests.evaluation.labelled import CALIBRATION, LAW, ExactLabelled, look
from tests.evaluation.test_evaluation import view
from tests.helpers import Points

ALL = {"accuracy", "ece", "ece_floor", "mce", "label_nll", "brier", "temperature", "ece_scaled", "label_nll_scaled"}


def bayes(n=200_000):
    """Points of the law, their true log p(y | x), and the class of the largest."""
    x = LAW.sample(n, torch.Generator().manual_seed(9))
    log_p = LAW.responsibilities(x).log()
    return x, log_p, log_p.amax(1).exp()


def test_the_exact_model_is_bayes_classifier(generator):
    """Of 2,000 points, within four standard errors: accuracy E max p, loss H(y | x), Brier E (1 - sum p^2); KL 0."""
    seen = look(generator)
    report = CALIBRATION(seen)
    m, n, (_, log_p, best) = report.metrics, len(seen.held_out), bayes()
    assert m.keys() == ALL | {"label_kl"} and report.notes == []
    p = log_p.exp()
    accuracy, entropy, spread = float(best.mean()), -(p * log_p).sum(1), (p * log_p**2).sum(1)
    assert m["accuracy"] == pytest.approx(accuracy, abs=4 * (accuracy * (1 - accuracy) / n) ** 0.5)
    error = float(spread.mean() - entropy.mean() ** 2) ** 0.5
    assert m["label_nll"] == pytest.approx(float(entropy.mean()), abs=4 * error / n**0.5)
    assert m["brier"] == pytest.approx(float((1 - (p**2).sum(1)).mean()), abs=4 * 0.4 / n**0.5)
    assert m["label_kl"] == pytest.approx(0.0, abs=1e-12)
    assert m["ece"] < 2.5 * m["ece_floor"] and m["mce"] >= m["ece"]
    curvature = float((spread - entropy**2).mean())  # of the loss in 1 / T: the variance of log p under p
    assert m["temperature"] == pytest.approx(1.0, abs=4 / (n * curvature) ** 0.5)
    assert report.images["reliability"].shape[0] == 3


@pytest.mark.parametrize("t", [0.4, 2.5])
def test_a_model_at_the_wrong_temperature_is_put_right_by_the_validation_split(t, generator):
    """Its logits are the exact one's over t: T comes out as 1 / t of the exact one's, the scaled numbers as its own."""
    exact = CALIBRATION(look(generator)).metrics
    seen = look(torch.Generator().manual_seed(0), temperature=t)
    m = CALIBRATION(seen).metrics
    assert m["temperature"] == pytest.approx(exact["temperature"] / t, rel=1e-6)
    assert m["ece_scaled"] == pytest.approx(exact["ece_scaled"], abs=1e-6)
    assert m["label_nll_scaled"] == pytest.approx(exact["label_nll_scaled"], abs=1e-6)
    assert m["ece"] > 3 * m["ece_scaled"] and m["label_nll"] > m["label_nll_scaled"]
    assert m["accuracy"] == exact["accuracy"] and m["ece"] > 3 * m["ece_floor"]
    _, log_p, _ = bayes()
    each = (log_p.exp() * (log_p - (log_p / t).log_softmax(1))).sum(1)
    assert m["label_kl"] == pytest.approx(float(each.mean()), abs=4 * float(each.std()) / len(seen.held_out) ** 0.5)


def test_the_temperature_is_that_of_the_validation_split_alone(generator):
    """Wrong labels of the test split change the numbers of the test split, and not the temperature."""
    right, seen = CALIBRATION(look(generator)).metrics, look(torch.Generator().manual_seed(0))
    seen.dataset.labels["test"] = (seen.dataset.labels["test"] + 1) % 3
    wrong = CALIBRATION(seen).metrics
    assert wrong["temperature"] == right["temperature"] and wrong["accuracy"] < 0.1 < right["accuracy"]


def test_a_fit_is_not_judged_on_its_own_points(generator):
    m = CALIBRATION(look(generator, split="val")).metrics
    assert m.keys() == ALL - {"temperature", "ece_scaled", "label_nll_scaled"} | {"label_kl"}


def test_validation_points_that_are_all_right_give_no_temperature(generator):
    seen = look(generator)
    seen.dataset.labels["val"] = seen.energy.logits(seen.dataset.val).argmax(1)
    report = CALIBRATION(seen)
    assert "temperature" not in report.metrics and "no temperature is best on the 2000" in report.notes[0]
    assert "ece_scaled" not in report.metrics and "accuracy" in report.metrics


def test_kl_by_hand():
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log()
    model = torch.tensor([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]]).log()
    assert label_kl(truth, model) == pytest.approx(0.5 * torch.tensor(2.0).log())


def test_runs_without_labels_are_left_out_in_words(generator):
    seen = look(generator)
    assert reason_against(CALIBRATION, seen) is None and CALIBRATION.silent
    assert reason_against(CALIBRATION, view(lambda x: x.sum(1), seen.dataset)) == "the model has no class labels"
    bare = view(ExactLabelled(), Points(seen.held_out))
    assert reason_against(CALIBRATION, bare) == "the data have no class labels"
    seen.dataset.test = seen.dataset.test[:0]
    assert reason_against(CALIBRATION, seen) == "there are no held-out points"


def test_it_is_built_from_its_yaml():
    from ebm_lab.runs.defaults import evaluation_settings

    assert build("evaluation", evaluation_settings("calibration", {}), "evaluation.calibration").bins == 15
