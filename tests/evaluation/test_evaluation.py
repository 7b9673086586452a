"""Evaluations against known answers."""

import math

import pytest
import torch

from ebm_lab.core.eval_view import EvalView
from ebm_lab.distributions.quadrature import box_log_z, grid_log_z
from ebm_lab.distributions.start import start_law
from ebm_lab.evaluation.classifier import Classifier, histogram, nearest_images, shares_of
from ebm_lab.evaluation.likelihood import Likelihood
from ebm_lab.evaluation.mmd import mmd2
from ebm_lab.evaluation.samples import spread
from ebm_lab.samplers.mala import MALA
from tests.helpers import Points, covariance, exact_sample, gaussian_energy


def view(energy, data, split="test", **more):
    settings = {"sampler": None, "count": 10, "steps": 10, "generator": torch.Generator().manual_seed(0), **more}
    return EvalView(energy, data, split, **settings, start=start_law(data))


@pytest.mark.parametrize("d", [1, 2])
def test_quadrature_finds_log_z_of_a_gaussian(d, generator):
    mean, precision = torch.full((d,), 2.0).double(), covariance(d, generator)
    energy = gaussian_energy(mean, precision)
    data = exact_sample(mean, torch.linalg.inv(precision), 1000, generator)
    log_z, change = box_log_z(energy, data, cells=200)
    assert log_z == pytest.approx(float(energy.exact_log_z().detach()), abs=1e-6) and change < 1e-4
    assert float(energy.exact_log_z().detach()) == pytest.approx(
        d / 2 * math.log(2 * math.pi) - 0.5 * float(precision.logdet())
    )


def test_quadrature_counts_the_mass_far_from_the_data(generator):
    """A model ten times as wide as the data: the first box misses half of it, the grown one none."""
    energy = gaussian_energy(torch.zeros(2).double(), 0.01 * torch.eye(2).double())
    data = exact_sample(torch.zeros(2).double(), torch.eye(2).double(), 1000, generator)
    log_z, _ = box_log_z(energy, data, cells=100)
    first = grid_log_z(energy, 2 * data.amin(0), 2 * data.amax(0), 100)
    assert first < float(energy.exact_log_z().detach()) - 0.5
    assert log_z == pytest.approx(float(energy.exact_log_z().detach()), abs=0.02)


def test_an_energy_without_z_is_noticed(generator):
    data = Points(exact_sample(torch.zeros(2).double(), torch.eye(2).double(), 500, generator))
    report = Likelihood(cells=50)(view(lambda x: 0.0 * x.sum(1), data))
    assert report.metrics["log_z_change"] > 0.1 and "may have no Z" in report.notes[0]


@pytest.mark.parametrize("d", [2, 5])
def test_likelihood_of_a_gaussian_is_the_closed_form(d, generator):
    """NLL = 1/2 tr(P S') + log Z, by formula in 5 dimensions and beside quadrature in 2."""
    mean, cov, precision = torch.zeros(d).double(), covariance(d, generator), covariance(d, generator)
    energy = gaussian_energy(mean + 0.5, precision)
    data = Points(exact_sample(mean, cov, 1000, generator))
    expected = 0.5 * (precision @ (cov + 0.25)).trace() + energy.exact_log_z()
    metrics = Likelihood(cells=200)(view(energy, data)).metrics
    assert metrics["nll"] == pytest.approx(float(expected.detach()), abs=1e-9)
    if d == 2:
        by_quadrature = Likelihood(cells=200)(view(lambda x: energy(x), data)).metrics
        assert by_quadrature["nll"] == pytest.approx(metrics["nll"], abs=1e-5)


def test_the_gap_of_the_true_density_is_zero():
    from ebm_lab.datasets.two_moons import TwoMoons

    data = TwoMoons(noise=0.15, train=2000, held_out=1000, seed=0)
    metrics = Likelihood(cells=300)(view(lambda x: 3.0 - data.log_prob(x), data)).metrics
    assert metrics["nll_gap"] == pytest.approx(0.0, abs=1e-4) and metrics["log_z"] == pytest.approx(-3.0, abs=1e-4)


def test_likelihood_says_why_it_leaves_images_out():
    data = Points(torch.zeros(4, 1, 8, 8), (-1.0, 1.0))
    assert "1 and 2 dimensions" in str(Likelihood(cells=10).applies(view(lambda x: x.sum(), data)))


def test_mmd_is_the_closed_form_for_gaussians(generator):
    """k = exp(-r^2 / 2w^2), x ~ N(0, 1), y ~ N(m, 1):

    MMD^2 = 2 c (1 - exp(-m^2 / (2 (w^2 + 2)))),
    c = w / sqrt(w^2 + 2). The mean over 30 repetitions lies within 4 standard errors, for m = 0 too: it is unbiased."""
    for m in (0.0, 0.5):
        values = []
        for _ in range(30):
            x = torch.randn(300, 1, generator=generator).double()
            y = m + torch.randn(300, 1, generator=generator).double()
            values.append(mmd2(x, y, [1.0]))
        values = torch.tensor(values)
        expected = 2 / 3**0.5 * (1 - math.exp(-(m**2) / 6))
        assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / 30**0.5


def test_nearest_images_are_the_nearest(generator):
    train = torch.randn(50, 1, 3, 3, generator=generator)
    found, distance = nearest_images(train[:7] + 0.01, train)
    assert torch.equal(found, train[:7])
    torch.testing.assert_close(distance, torch.full((7,), 0.03), atol=1e-3, rtol=0)


def test_the_shares_of_classes_and_their_picture():
    share = shares_of(torch.tensor([0, 0, 0, 2]), 4)
    assert share.tolist() == [0.75, 0, 0.25, 0] and shares_of(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 0]
    blue = torch.tensor([0x00, 0x72, 0xB2]).view(3, 1, 1)
    drawn = (histogram({"real": share.flip(0), "samples": share}) == blue).all(0)
    heights = drawn.sum(0)[drawn.any(0)]  # of each column of pixels that has blue, from left to right
    assert heights[len(heights) // 4] == pytest.approx(3 * float(heights[-len(heights) // 4]), rel=0.05)


def test_classifier_knows_real_digits_from_noise(generator):
    from ebm_lab.datasets.digits import Digits

    digits = Digits(val=0.15, test=0.15, seed=0, classes=None)
    real = view(lambda x: x.flatten(1).sum(1), digits, sampler=object(), generator=generator)
    real.__dict__["trajectory"] = [(0, digits.val)]
    metrics = Classifier(confident=0.9, hidden=64, points=2000, passes=130_000)(real).metrics
    assert metrics["classifier_accuracy"] > 0.94
    assert metrics["confident_share"] > 0.8 and metrics["classes_found"] == 10
    assert metrics["confident_share_noise"] < 0.3 and metrics["class_entropy"] > 2.2
    assert metrics["nearest_distance"] == pytest.approx(metrics["nearest_distance_real"], rel=0.1)


def test_samples_at_a_temperature_have_that_part_of_the_variance(generator):
    """exp(-E / T) of a Gaussian with covariance S is a Gaussian with covariance T S; MALA is exact. The standard error
    of a variance from n independent chains is sqrt(2 / n)."""
    precision = covariance(2, generator)
    data = Points(exact_sample(torch.zeros(2).double(), torch.linalg.inv(precision), 1000, generator))
    energy = gaussian_energy(torch.zeros(2).double(), precision)
    fixed = {"temperature": 1.0, "mass": "identity", "warmup": None}
    mala = MALA(data.scale, steps=100, step_size=0.7, target_acceptance=0.6, adapt_rate=0.02, **fixed)
    n = 8000
    cold = view(energy, data, sampler=mala, count=n, steps=300, temperature=0.25)
    white = cold.samples @ torch.linalg.cholesky(precision)
    assert torch.allclose(white.var(0), torch.tensor(0.25).double(), atol=4 * 0.25 * (2 / n) ** 0.5)


def test_film_frames_run_from_first_to_last():
    film = [(i, None) for i in range(76)]
    steps = [step for step, _ in spread(film, 10)]
    assert steps[0] == 0 and steps[-1] == 75 and len(steps) <= 10 and steps == sorted(set(steps))
    assert len(spread(film[:1], 10)) == 1 and len(spread(film[:3], 10)) == 3


def test_the_trapezoid_rule_is_exact_for_a_constant():
    """The integral of exp(-1) over a box is its volume times exp(-1): the edges count half, the corners a quarter."""
    log_z = grid_log_z(lambda x: torch.ones(len(x)), torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 5.0]), 7)
    assert log_z == pytest.approx(math.log(15) - 1, abs=1e-6)
