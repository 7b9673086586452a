"""Calibration numbers against closed forms, hand counts and scikit-learn."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.statistics.calibration import brier, ece, ece_floor, fit_temperature, label_nll, mce, reliability

N = 400_000


def logistic(n, generator):
    """Points z ~ N(0, 4) with labels y ~ Bernoulli(sigmoid(z))."""
    z = 2 * torch.randn(n, generator=generator, dtype=torch.float64)
    return z, (torch.rand(n, generator=generator, dtype=torch.float64) < z.sigmoid()).long()


def logits(z, b):
    return torch.stack([torch.zeros_like(z), b * z], 1)


@pytest.mark.parametrize(
    "b, error, nll", [(1.0, 0.0, 0.4620089), (2.0, 0.0932302, 0.5383957), (0.5, 0.1031328, 0.5032064)]
)
def test_predictions_sigmoid_bz_have_the_numbers_of_the_integrals(b, error, nll, generator):
    """E |sigmoid(b |z|) - sigmoid(|z|)| and E log(1 + exp(-b z y)), by quadrature; at b = 1 the ECE is its floor, of a
    few bins in each of which |acc - conf| is half-normal: within twice of it. Tolerances are four standard errors, of
    the ECE those of acc - conf over all points."""
    z, y = logistic(N, generator)
    p = logits(z, b).softmax(1)
    right = (p.argmax(1) == y).double() - p.amax(1)
    if error:
        assert ece(p, y) == pytest.approx(error, abs=4 * float(right.std()) / N**0.5)
    else:
        assert 0 < ece(p, y) < 2 * ece_floor(p) < 3e-3
    each = torch.nn.functional.cross_entropy(logits(z, b), y, reduction="none")
    assert label_nll(logits(z, b), y) == pytest.approx(nll, abs=4 * float(each.std()) / N**0.5)
    assert label_nll(logits(z, b).log_softmax(1), y) == pytest.approx(label_nll(logits(z, b), y), rel=1e-12)
    assert mce(p, y) >= ece(p, y)


@pytest.mark.parametrize("b", [0.25, 1.0, 3.0])
def test_the_fitted_temperature_is_b(b, generator):
    """Exactly, where the k of m points at z = log(k / (m - k)) have label 1: then sigmoid(z) is their maximum
    likelihood estimate. For drawn labels within four standard errors: by the delta method that of T = b / slope is
    b / sqrt(n E[z^2 p (1 - p)]) at slope 1."""
    m = 20
    k = torch.arange(1, m)
    z = (k.double() / (m - k)).log().repeat_interleave(m)
    y = (torch.arange(m) < k[:, None]).long().flatten()
    assert fit_temperature(logits(z, b), y) == pytest.approx(b, rel=1e-9)
    assert fit_temperature(1e4 + 1e3 * logits(z, b), y) == pytest.approx(1e3 * b, rel=1e-6), "a shift changes nothing"
    z, y = logistic(20_000, generator)
    p = z.sigmoid()
    assert fit_temperature(logits(z, b), y) == pytest.approx(b, rel=4 / float((z**2 * p * (1 - p)).sum()) ** 0.5)


def test_no_temperature_is_best_where_all_is_right_or_nothing_is_said():
    y = torch.tensor([0, 1, 1])
    right = torch.tensor([[2.0, 1.0], [0.0, 1.0], [-3.0, 3.0]])
    assert fit_temperature(right, y) is None and fit_temperature(-right, y) is None
    assert fit_temperature(torch.zeros(3, 2), y) is None
    assert fit_temperature(torch.cat([right, right[:1]]), torch.tensor([0, 1, 1, 1])) is not None


def test_temperature_minimises_the_loss_of_several_classes(generator):
    x = 3 * torch.randn(300, 5, generator=generator).double()
    y = (x + 2 * torch.randn(300, 5, generator=generator).double()).argmax(1)
    found = fit_temperature(x, y)
    assert found is not None
    assert all(label_nll(x / found, y) < label_nll(x / (found * f), y) for f in (0.99, 1.01, 0.5, 2.0))


def test_bins_by_hand():
    """Confidences .5, .6 | .75, .8 | 1 in five bins ]0, .2], .., ]0.8, 1]: the right end belongs to its bin."""
    first = torch.tensor([0.5, 0.6, 0.75, 0.8, 1.0], dtype=torch.float64)
    p, y = torch.stack([first, 1 - first], 1), torch.tensor([0, 1, 0, 0, 0])
    table = reliability(p, y, 5)
    assert table.counts.tolist() == [0, 0, 2, 2, 1]
    torch.testing.assert_close(table.confidence, torch.tensor([0, 0, 0.55, 0.775, 1.0]).double())
    torch.testing.assert_close(table.accuracy, torch.tensor([0, 0, 0.5, 1.0, 1.0]).double())
    torch.testing.assert_close(table.variance, torch.tensor([0, 0, 0.245, 0.17375, 0.0]).double())
    assert ece(p, y, 5) == pytest.approx((2 * 0.05 + 2 * 0.225) / 5) and mce(p, y, 5) == pytest.approx(0.225)
    floor = (2 / (5 * math.pi)) ** 0.5 * ((0.4 * 0.245) ** 0.5 + (0.4 * 0.17375) ** 0.5)
    assert ece_floor(p, 5) == pytest.approx(floor)


@pytest.mark.parametrize("bins", [15, 20])
def test_the_floor_is_the_mean_ece_of_calibrated_models(bins, generator):
    """Of 400 draws of 360 points z ~ N(0, 4) with labels of the predicted probabilities, within four standard errors
    and 3 %, since the few points of some bins are no normal's. With 20 bins it is .0507 by quadrature."""
    errors, floors = torch.zeros(2, 400)
    for i in range(400):
        z, y = logistic(360, generator)
        p = logits(z, 1.0).softmax(1)
        errors[i], floors[i] = ece(p, y, bins), ece_floor(p, bins)
    mean = float(floors.mean())
    assert float(errors.mean()) == pytest.approx(mean, abs=0.03 * mean + 4 * float(errors.std()) / 20)
    if bins == 20:
        assert mean == pytest.approx(0.0507, rel=0.01)


def test_brier_is_that_of_scikit_learn(generator):
    from sklearn.metrics import brier_score_loss

    z, y = logistic(500, generator)
    p = logits(z, 2.0).softmax(1)
    assert brier(p, y) == pytest.approx(2 * brier_score_loss(y.numpy(), p[:, 1].numpy()))
    assert brier(torch.eye(3), torch.arange(3)) == 0.0 and brier(torch.eye(2), torch.tensor([1, 0])) == 2.0


@pytest.mark.parametrize(
    "p, y, words",
    [
        (torch.ones(3, 2) / 2, torch.zeros(4).long(), r"shape \(3, 2\) do not belong to labels \(4,\)"),
        (torch.ones(2, 2) / 2, torch.tensor([0, 2]), "labels from 0 to 2, and probabilities of 2 classes"),
        (torch.ones(1, 2) / 2, torch.tensor([-1]), "labels from -1"),
        (torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]), "1 of 1 probabilities are not finite"),
        (torch.empty(0, 2), torch.empty(0).long(), "do not belong"),
    ],
)
def test_what_can_not_be_judged_is_told_in_a_line(p, y, words):
    with pytest.raises(UserError, match=words):
        ece(p, y)
