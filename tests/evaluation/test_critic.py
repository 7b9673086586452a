"""The error of a critic against the best critic of Gaussian models of Gaussian data, which is known."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ebm_lab.core.learnt import RatioCritic, ScoreCritic
from ebm_lab.distributions.elementary import Gaussian
from ebm_lab.evaluation.critic import CriticError
from ebm_lab.objectives.f_ebm import FEBM, MOST
from ebm_lab.objectives.jem import JEM
from tests.evaluation.test_evaluation import view
from tests.helpers import Points, covariance, exact_sample, gaussian_energy
from tests.objectives.test_lsd import L2, lsd

METRICS = ("critic_error", "critic_cosine", "critic_best")


class Known(Points):
    """Points of N(0, S), whose law is known."""

    def __init__(self, x, cov):
        super().__init__(x)
        self.law = self.known = Gaussian(torch.zeros(len(cov)).to(cov), cov)

    def log_prob(self, x):
        return self.known.log_prob(x)


def gaussians(d, generator):
    """Data N(0, S), S, and an energy of precision P beside P."""
    cov, precision = covariance(d, generator), covariance(d, generator)
    data = Known(exact_sample(torch.zeros(d).double(), cov, 400, generator), cov)
    return data, cov, gaussian_energy(torch.zeros(d).double(), precision), precision


def report_of(energy, data, critic, blur=0.0, **settings):
    seen = view(energy, data)
    seen.objective, seen.blur = cast(Any, SimpleNamespace(learnt_critic=lambda: critic)), blur
    evaluation = CriticError(**{"points": 1000, "cells": 60, "arrows": 10, **settings})
    assert evaluation.applies(seen) is None
    return evaluation(seen)


def test_of_a_field_the_error_is_known_for_the_best_critic_for_half_of_it_and_for_none(generator):
    """f* = (S^-1 - P) x / (2 l2) of the objective's own critic; its mean square is the trace of A S A'."""
    data, cov, energy, precision = gaussians(5, generator)
    objective, a = lsd(energy, data, generator), (torch.linalg.inv(cov) - precision) / (2 * L2)
    for share, error, cosine in ((1.0, 0.0, 1.0), (0.5, 0.5, 1.0), (-1.0, 2.0, -1.0)):
        objective.f = lambda x, share=share: share * x @ a.T
        report = report_of(energy, data, objective.learnt_critic())
        expected = (error, cosine, math.sqrt(float((a @ cov @ a.T).trace())))
        assert [report.metrics[k] for k in METRICS] == pytest.approx(expected, abs=1e-9)
        assert report.images == {}, "drawn in two dimensions only"
    objective.f = lambda x: 0.0 * x
    assert report_of(energy, data, objective.learnt_critic()).metrics["critic_error"] == pytest.approx(1.0)


def test_in_two_dimensions_the_field_is_drawn_beside_the_best_one(generator):
    data, _, energy, precision = gaussians(2, generator)
    critic, widths = ScoreCritic(lambda x: -x @ precision, 1.0), []
    for known in (data, Points(data.train)):
        image = report_of(energy, known, critic, arrows=5).images["critic"]
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        widths.append(image.shape[2])
    assert widths[0] > 2 * widths[1], "three panels, and one alone where the law is not known"


@pytest.mark.parametrize("critic", [ScoreCritic(lambda x: 0.0 * x, 1.0), RatioCritic(lambda x: 0.0 * x[:, 0], 5.0)])
def test_one_point_and_a_critic_of_zero_are_drawn(critic):
    point = Points(torch.ones(1, 2).double())
    report = report_of(lambda x: x.square().sum(1), point, critic, arrows=5, cells=12)
    assert report.metrics == {} and report.images["critic"].float().std() > 0


def test_noise_on_the_data_widens_the_law_that_the_best_critic_sees(generator):
    data, cov, energy, precision = gaussians(3, generator)
    sigma = 0.8
    wide = torch.linalg.inv(cov + sigma**2 * torch.eye(3).double())
    critic = ScoreCritic(lambda x: 0.7 * x @ (wide - precision).T, 0.7)
    assert report_of(energy, data, critic, blur=sigma).metrics["critic_error"] < 1e-9
    assert report_of(energy, data, critic).metrics["critic_error"] > 0.05


def log_ratio(cov, precision):
    """x -> log N(x; 0, S) - log N(x; 0, P^-1), exactly."""
    off, constant = precision - torch.linalg.inv(cov), -0.5 * float(torch.logdet(cov) + torch.logdet(precision))
    return lambda x: 0.5 * ((x @ off) * x).sum(1) + constant


@pytest.mark.parametrize("how", ["formula", "quadrature", "samples"])
def test_of_a_ratio_the_error_is_known_however_log_z_is_had(how, generator):
    """By formula and quadrature nearly exact, by exact samples of the truth up to the error of log Z, some hundredths
    of a nat. Values beyond the bound are not asked of the critic."""
    data, cov, energy, precision = gaussians(1 if how == "quadrature" else 3, generator)
    exact, model = log_ratio(cov, precision), energy if how == "formula" else (lambda x: energy(x))
    tolerance = {"formula": 1e-9, "quadrature": 1e-4, "samples": 0.05}[how]
    for share, error in ((1.0, 0.0), (0.5, 0.5)):
        report = report_of(model, data, RatioCritic(lambda x, share=share: share * exact(x), 50.0))
        assert report.metrics["critic_error"] == pytest.approx(error, abs=tolerance) and report.notes == []
    bound = float(exact(data.test).abs().median())
    clipped = RatioCritic(lambda x: exact(x).clamp(-bound, bound), bound)
    assert report_of(model, data, clipped).metrics["critic_error"] == pytest.approx(0, abs=4 * tolerance)


def test_without_log_z_the_constant_is_fitted_and_a_note_says_so(generator):
    """A model so narrow that samples of the truth do not find its Z: a ratio off by any constant has error 0."""
    data, cov, _, _ = gaussians(5, generator)
    narrow = 4e4 * torch.eye(5).double()
    energy = gaussian_energy(torch.zeros(5).double(), narrow)
    exact = log_ratio(cov, narrow)
    report = report_of(lambda x: energy(x), data, RatioCritic(lambda x: exact(x) + 7, 1e9))
    assert report.metrics["critic_error"] < 1e-6 and "constant of h* is fitted" in report.notes[0]


def test_it_says_why_it_does_not_apply(generator):
    seen = view(gaussians(2, generator)[2], Points(torch.randn(9, 3, generator=generator)))
    evaluation = CriticError(points=9, cells=9, arrows=9)
    assert "no critic" in str(evaluation.applies(seen))
    critic = ScoreCritic(lambda x: x, 1.0)
    seen.objective = cast(Any, SimpleNamespace(learnt_critic=lambda: critic))
    assert "law is not known" in str(evaluation.applies(seen))
    seen.dataset = Points(torch.randn(9, 2, generator=generator).double())
    report = evaluation(seen)
    assert evaluation.applies(seen) is None and report.metrics == {} and "critic" in report.images


def test_a_joint_model_shows_its_generative_half_s_critic_and_f_ebm_its_bound():
    febm = cast(Any, SimpleNamespace(ratio=torch.sin))
    critic = FEBM.learnt_critic(febm)
    assert critic == RatioCritic(torch.sin, MOST)
    half = cast(Any, SimpleNamespace(generative=SimpleNamespace(learnt_critic=lambda: critic)))
    assert JEM.learnt_critic(half) is critic
