"""Levels of a Gaussian model whose blurred law and normaliser are known."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ebm_lab.core.interfaces import Energy
from ebm_lab.evaluation.levels import Levels
from ebm_lab.models.ladder import Ladder
from ebm_lab.objectives.dual_sm import DualSM
from ebm_lab.objectives.unbiased_cd import UnbiasedCD
from tests.evaluation.test_critic import Known
from tests.evaluation.test_evaluation import view
from tests.helpers import Points, covariance, exact_sample


class Blurred(Energy):
    """E(x, sigma) = x' (wide S + sigma^2 I)^-1 x / 2 + half log det (2 pi ...) + shift log sigma: log Z = -shift log
    sigma, and with wide = 1 the data's own law at each level."""

    offers = Energy.offers | {"levels"}

    def __init__(self, cov, wide=1.0, shift=0.0):
        super().__init__()
        self.cov, self.wide, self.shift = cov, wide, shift
        self.ladder = Ladder(4.0, 0.25, 10)

    def forward(self, x, sigma=None):
        sigma = self.ladder.sigma_min if sigma is None else sigma
        cov = self.wide * self.cov + sigma**2 * torch.eye(len(self.cov)).double()
        square = ((x @ torch.linalg.inv(cov)) * x).sum(1)
        return 0.5 * (square + torch.logdet(2 * math.pi * cov)) + self.shift * math.log(sigma)


def report_of(energy, data, learnt=None, **settings):
    seen = view(energy, data)
    seen.learnt_log_z = learnt
    evaluation = Levels(**{"levels": 3, "points": 5000, "cells": 30, **settings})
    assert evaluation.applies(seen) is None
    return evaluation(seen)


def gaussian(d, generator, n=500):
    cov = covariance(d, generator)
    return Known(exact_sample(torch.zeros(d).double(), cov, n, generator), cov), cov


@pytest.mark.parametrize("d", [1, 2])
def test_a_model_that_is_the_blurred_law_has_no_gap_and_no_log_z(d, generator):
    data, cov = gaussian(d, generator)
    report = report_of(Blurred(cov), data, learnt=0.0)
    assert report.metrics["levels_gap"] == pytest.approx(0, abs=1e-4)
    assert report.metrics["levels_log_z"] == pytest.approx(0, abs=1e-4)
    assert report.notes == [] and ("levels" in report.images) == (d == 2)


def test_log_z_that_drifts_over_the_levels_is_measured_from_the_learnt_one(generator):
    """log Z = -0.3 log sigma at sigma = 4, 1, 1/4, against a learnt log Z of 0.2."""
    data, cov = gaussian(1, generator)
    metrics = report_of(Blurred(cov, shift=0.3), data, learnt=0.2).metrics
    errors = [-0.3 * math.log(4) - 0.2, -0.2, 0.3 * math.log(4) - 0.2]
    assert [metrics[f"levels_log_z_{i}"] for i in (1, 2, 3)] == pytest.approx(errors, abs=1e-4)
    assert metrics["levels_log_z"] == pytest.approx(max(map(abs, errors)), abs=1e-4)
    assert metrics["levels_gap"] == pytest.approx(0, abs=1e-4), "each level is normalised by its own log Z"
    assert "levels_log_z" not in report_of(Blurred(cov, shift=0.3), data).metrics, "nothing was learnt"


def test_the_gap_of_a_model_of_other_width_is_the_closed_form(generator):
    """KL(N(0, A) || N(0, B)) = half (tr B^-1 A - d - log det B^-1 A), A = S + t I, B = 3 S + t I."""
    n = 5000
    data, cov = gaussian(1, generator, n)
    metrics = report_of(Blurred(cov, wide=3.0), data).metrics
    expected = []
    for i, sigma in enumerate((4.0, 1.0, 0.25), 1):
        t = sigma**2 * torch.eye(1).double()
        ratio = torch.linalg.solve(3 * cov + t, cov + t)
        off = torch.eye(1).double() - ratio
        expected.append(0.5 * float(ratio.trace() - 1 - torch.logdet(ratio)))
        spread = math.sqrt(0.5 * float((off @ off).trace()) / n)  # of half x' (B^-1 - A^-1) x
        assert metrics[f"levels_gap_{i}"] == pytest.approx(expected[-1], abs=5 * spread)
    assert metrics["levels_gap"] == pytest.approx(sum(expected) / 3, rel=0.1)


def test_above_two_dimensions_the_learnt_log_z_normalises(generator):
    data, cov = gaussian(4, generator)
    report = report_of(Blurred(cov, shift=0.0), data, learnt=0.5)
    assert report.metrics["levels_gap"] == pytest.approx(0.5) and "levels_log_z" not in report.metrics
    assert report.images == {}
    assert "quadrature" in str(Levels(levels=2, points=9, cells=9).applies(view(Blurred(cov), data)))


def test_data_without_a_law_are_drawn_without_the_truth(generator):
    data, cov = gaussian(2, generator)
    with_truth = report_of(Blurred(cov), data, learnt=0.0)
    alone = report_of(Blurred(cov), Points(data.train), learnt=0.0)
    assert "levels_gap" not in alone.metrics and alone.metrics["levels_log_z"] == pytest.approx(0, abs=1e-4)
    assert alone.images["levels"].shape[1] < with_truth.images["levels"].shape[1]


def test_a_level_without_a_normaliser_is_left_out_and_said(generator):
    """At levels above 1 the energy is flat, and so has no Z."""

    class Flat(Blurred):
        def forward(self, x, sigma=None):
            return 0.0 * x.sum(1) if sigma is not None and sigma > 1 else super().forward(x, sigma)

    data, cov = gaussian(1, generator)
    report = report_of(Flat(cov), data, learnt=0.0)
    assert "levels_gap_1" not in report.metrics and "levels_gap_3" in report.metrics
    assert len(report.notes) == 1 and "sigma=4 is left out" in report.notes[0]


def test_levels_that_training_leaves_alone_are_not_shown(generator):
    data, cov = gaussian(2, generator)
    trained = DualSM(cast(Any, Blurred(cov)), generator, antithetic=True, time_weight=1.0).trains_levels()
    assert trained and not UnbiasedCD.trains_levels(cast(Any, SimpleNamespace(found_needs=lambda: UnbiasedCD.needs)))
    seen = view(Blurred(cov), data)
    seen.objective = cast(Any, SimpleNamespace(trains_levels=lambda: False))
    assert "lowest noise level alone" in str(Levels(levels=2, points=9, cells=9).applies(seen))
