"""Annealed importance sampling against closed forms, enumeration and quadrature."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from ebm_lab.core.choice import Choice
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import EvalView, reason_against
from ebm_lab.core.registry import build, find, parse
from ebm_lab.core.transforms import Affine
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.distributions.quadrature import box_log_z
from ebm_lab.evaluation._annealed_importance import (
    Annealed,
    Whitened,
    effective_sample_size,
    fixed_schedule,
    forward_log_weights,
    log_mean_exp,
    reverse_log_weights,
)
from ebm_lab.evaluation._annealed_path import Journey, Path, pilot
from ebm_lab.evaluation._bits_per_dim import bits_per_dim
from ebm_lab.evaluation.ais import Shape, fit_base
from ebm_lab.evaluation.likelihood import Likelihood
from ebm_lab.runs.compatibility import faults
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from tests.exhaustive import exhaustive
from tests.helpers import Points, covariance, exact_sample, gaussian_energy

FIXED = {"adapt_rate": 0.05, "temperature": 1.0, "mass": "identity", "warmup": None, "steps": 1, "step_size": 0.5}
HMC3 = {"name": "hmc", "leapfrog": 3, "target_acceptance": 0.8, **FIXED}


def mala(target: float | None = 0.6):
    return MALA(1.0, target_acceptance=target, **FIXED)


def journey(energy, base, generator, n=100, kernel=mala):
    path = pilot(energy, base, kernel(), n, generator)
    return Journey(energy, base, kernel(None), path, "adaptive", generator)


def settings(**changes):
    plain = {"schedule": "adaptive", "base": "covariance", "base_floor": 0.1, "reverse_moves": 20, "cells": 100}
    return {"name": "ais", "chains": 64, "temperatures": 100, "transition": HMC3, **plain, **changes}


def evaluation(**changes):
    return build("evaluation", settings(**changes), "evaluation.ais")


def view(energy, data, **more):
    settings = {"sampler": None, "count": 64, "steps": 10, "generator": torch.Generator().manual_seed(0), **more}
    return EvalView(energy, data, "test", **settings)


def calibrated(log_w, log_z):
    """40 seeds of a batch: within 3 of their own standard errors in at least 38, and those as large as the errors are.

    With normal log w of std 0.65 and 16 chains, 2 % of the seeds lie outside and 99 % of the root mean squares of 40
    standardised errors below 1.55 (Student's tails, and skewed weights); with 8 chains 4 %, too many."""
    estimate, se = log_mean_exp(log_w.view(40, -1))
    errors = (estimate - log_z) / se
    assert int((errors.abs() < 3).sum()) >= 38
    assert 0.6 < float(errors.square().mean().sqrt()) < 1.6
    return estimate, se


@pytest.mark.parametrize("d", [2, 10, 64])
def test_log_z_of_gaussians_in_few_dimensions(d, generator):
    """Correlated, off centre; 1,000 temperatures; 40 seeds of 16 chains as one batch. E[w] = Z: over all 640 chains
    the mean weight lies within 4 standard errors of Z."""
    energy = gaussian_energy(torch.full((d,), 0.5).double(), torch.linalg.inv(covariance(d, generator)))
    run = journey(energy, IsotropicGaussian(torch.zeros(d).double(), 1.5), generator)
    log_w, log_z = run.forward(640, 1000), float(energy.exact_log_z().detach())
    calibrated(log_w, log_z)
    mean, se = log_mean_exp(log_w)
    assert abs(float(mean) - log_z) < 4 * float(se) and float(se) < 0.1


@exhaustive
def test_log_z_of_a_gaussian_of_784_dimensions(generator):
    """2,500 temperatures, float32, 40 seeds of 16 chains. Neighbours correlate: P has blocks ((a, c), (c, a)), so
    log Z = d/2 log 2 pi - d/4 log(a^2 - c^2)."""
    d, a, c = 784, 1.3, 0.4

    def energy(x):
        return 0.5 * a * (x * x).sum(1) + c * (x[:, ::2] * x[:, 1::2]).sum(1)

    run = journey(energy, IsotropicGaussian(torch.zeros(d), 1.0), generator, n=32)
    log_z = d / 2 * math.log(2 * math.pi) - d / 4 * math.log(a * a - c * c)
    calibrated(run.forward(640, 2_500), log_z)


def test_the_error_bar_shrinks_with_chains_and_with_temperatures(generator):
    """As 1 / sqrt(n); and Var log w as 1 / T, within 30 % = 4 standard errors of a ratio of variances of 640."""
    energy = gaussian_energy(torch.zeros(10).double(), torch.linalg.inv(covariance(10, generator)))
    run = journey(energy, IsotropicGaussian(torch.zeros(10).double(), 1.5), generator)
    few, many = (run.forward(640, steps) for steps in (100, 400))
    assert float(few.var() / many.var()) == pytest.approx(4, rel=0.3)
    _, quarters = log_mean_exp(few.view(16, 40))
    assert float(quarters.mean() / log_mean_exp(few)[1]) == pytest.approx(4, rel=0.15)


def test_two_modes_in_the_plane_against_quadrature(generator):
    """Forward from a wide base; reverse from exact samples brackets log Z from above."""
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.5]]).double()

    def energy(x):
        return -torch.logsumexp(-2 * torch.cdist(x, means.to(x)).square(), 1) + 3.0

    which = torch.randint(2, (2000,), generator=generator)
    exact = means[which] + 0.5 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    log_z, _ = box_log_z(energy, exact, 200)
    run = journey(energy, IsotropicGaussian(torch.zeros(2).double(), 2.0), generator)
    value, se = log_mean_exp(run.forward(2000, 100))
    assert abs(float(value) - log_z) < 4 * float(se)
    log_w = run.reverse(exact, 100)
    minus, se = log_mean_exp(-log_w)
    assert abs(float(-minus) - log_z) < 4 * float(se) and float(log_w.mean()) > log_z


def discrete():
    """Five states, T = 3: all paths forward and in reverse, with exact probabilities of Metropolis kernels."""
    log_p0 = torch.tensor([0.3, 0.2, 0.1, 0.25, 0.15], dtype=torch.float64).log()
    e = torch.tensor([1.0, -0.7, 0.3, 2.0, -1.5]).double()
    b = [0.0, 0.3, 0.55, 1.0]

    def kernel(t):
        log_p = (1 - b[t]) * log_p0 - b[t] * e
        k = 0.2 * (log_p[None] - log_p[:, None]).clamp_max(0).exp()
        return k - k.diagonal().diag() + (1 - (k.sum(1) - k.diagonal())).diag()

    paths = torch.tensor(list(product(range(5), repeat=3)))
    p1 = torch.softmax(-e, 0)
    ahead = log_p0.exp()[paths[:, 0]] * kernel(1)[paths[:, 0], paths[:, 1]] * kernel(2)[paths[:, 1], paths[:, 2]]
    back = p1[paths[:, 0]] * kernel(2)[paths[:, 0], paths[:, 1]] * kernel(1)[paths[:, 1], paths[:, 2]]
    return paths, ahead, back, lambda x, a, b: (b - a) * (-e - log_p0)[x[:, 0]], b, float(torch.logsumexp(-e, 0))


def test_enumerated_paths_have_the_exact_expectations():
    """E[w] = Z forward and E[1 / w] = 1 / Z in reverse, E log w below and above log Z: to float precision. Any other
    order of moves and increments breaks them."""
    paths, ahead, back, u, b, log_z = discrete()
    log_w, end = forward_log_weights(u, b, lambda x, t: paths[:, t : t + 1], paths[:, :1])
    assert float(ahead.sum()) == pytest.approx(1) and torch.equal(end[:, 0], paths[:, 2])
    assert float((ahead * log_w.exp()).sum().log()) == pytest.approx(log_z, abs=1e-12)
    assert float((ahead * log_w).sum()) < log_z - 0.01
    log_w, end = reverse_log_weights(u, b, lambda x, t: paths[:, 3 - t : 4 - t], paths[:, :1])
    assert float(back.sum()) == pytest.approx(1) and torch.equal(end[:, 0], paths[:, 2])
    assert -float((back * (-log_w).exp()).sum().log()) == pytest.approx(log_z, abs=1e-12)
    assert float((back * log_w).sum()) > log_z + 0.01


def test_the_moves_are_told_the_temperature_of_their_place():
    """Forward the kernel of b_t follows the t-th increment; in reverse the first move is at b_{T-1}."""
    seen = []

    def move(x, t):
        seen.append(t)
        return x

    for walk in (forward_log_weights, reverse_log_weights):
        walk(lambda x, a, b: x[:, 0], fixed_schedule("linear", 4), move, torch.zeros(3, 1))
    assert seen == [1, 2, 3, 3, 2, 1]


def test_unadjusted_langevin_misses_z_and_is_refused(generator):
    """1-D, precision 4 from a base of 1, 20 temperatures: with MALA log mean w is log Z within 4 standard errors, with
    unadjusted steps of the same size off by more than 10; the evaluation takes only exact kernels."""
    energy = gaussian_energy(torch.zeros(1).double(), torch.full((1, 1), 4.0).double())
    base, log_z = IsotropicGaussian(torch.zeros(1).double(), 1.0), float(energy.exact_log_z().detach())
    b = fixed_schedule("linear", 20)
    kernels = (mala(None), Langevin(1.0, steps=1, step_size=0.5, noise_scale=1.0, clip_grad=None))
    off = []
    for kernel in kernels:
        x = base.sample(20_000, generator)

        def move(x, t, kernel=kernel):
            return kernel(Annealed(energy, base, b[t]), x, {}, generator=generator).x

        value, se = log_mean_exp(forward_log_weights(partial(Annealed.rise, energy, base), b, move, x)[0])
        off.append(abs(float(value) - log_z) / float(se))
    assert off[0] < 4 and off[1] > 10
    values = {"name": "langevin", "steps": 1, "step_size": 0.5, "noise_scale": 1.0, "clip_grad": None}
    ais = parse("evaluation", settings(transition=values), "evaluation.ais")
    run = {
        kind: Choice(kind, name, kind, find(kind, name), {})
        for kind, name in (("energy", "gaussian"), ("objective", "dsm"))
    }
    (line,) = faults({**run, "evaluation.ais": ais}, Points(torch.randn(9, 2)))
    assert line.startswith(
        "evaluation.ais.transition.name=langevin: must be adjusted_mclmc, barker, hmc, mala or nuts: one without a "
        "Metropolis test"
    )


@pytest.mark.parametrize("wrong", [{"temperature": 2.0}, {"mass": "diagonal"}, {"warmup": 10}])
def test_kernels_of_another_law_or_that_go_on_adapting_are_refused(wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=f"transition.{key}={value}: must be"):
        evaluation(transition={**HMC3, **wrong})


def test_the_jackknife_leaves_out_each_weight(generator):
    """Against leaving them out one by one; near the delta method for even weights; and not held at 1 nat by it where
    one weight outweighs the others by 50 nats."""
    log_w = torch.randn(2, 50, generator=generator).double()
    log_w[1, 7] = 50.0
    value, se = log_mean_exp(log_w)
    for row in range(2):
        rest = [torch.cat([log_w[row, :i], log_w[row, i + 1 :]]).logsumexp(0) - math.log(49) for i in range(50)]
        spread = torch.stack(rest).var(correction=0)
        assert float(se[row]) == pytest.approx(float((49 * spread).sqrt()), rel=1e-9)
    assert float(value[0]) == pytest.approx(float(log_w[0].exp().mean().log()), rel=1e-12) and float(se[1]) > 40
    even = 0.1 * torch.randn(4000, generator=generator).double()
    assert float(log_mean_exp(even)[1]) == pytest.approx(
        float(even.exp().std() / even.exp().mean() / 4000**0.5), rel=1e-2
    )


def test_the_error_is_infinite_where_one_sample_carries_all():
    log_w = torch.tensor([[0.0, -torch.inf, -torch.inf], [0.0, 0.0, -torch.inf]]).double()
    value, se = log_mean_exp(log_w)
    assert value.tolist() == pytest.approx([-math.log(3), math.log(2 / 3)])
    assert se[0] == torch.inf and 0 < float(se[1]) < 1


def test_the_pilot_measures_by_the_points_that_have_a_density(generator):
    """N(0, I) to precision 25 within |x_i| < 2, which few draws of the base satisfy: the path has a length."""
    energy = lambda x: torch.where((x.abs() < 2).all(1), 12.5 * x.square().sum(1), torch.inf)  # noqa: E731
    base = IsotropicGaussian(torch.zeros(10).double(), 1.0)
    path = pilot(energy, base, MALA(1.0, target_acceptance=0.6, **FIXED), 400, generator)
    assert path.length[-1] == pytest.approx(5**0.5 * math.log(25), rel=0.25)


def test_effective_sample_size_counts_the_weights_that_carry_the_sum():
    equal, single = torch.zeros(10).double(), torch.full((10,), -torch.inf).double()
    single[3] = 5.0
    half = torch.cat([torch.zeros(5), torch.full((5,), -torch.inf)]).double()
    assert [float(effective_sample_size(w)) for w in (equal, single, half)] == pytest.approx([10, 1, 5])


def test_the_pilot_finds_length_and_best_temperatures(generator):
    """From N(0, I) to precision a in d dimensions: Var_{p_b}(u) = d (a - 1)^2 / (2 (1 + b (a - 1))^2), so that
    length = sqrt(d / 2) log a, and half of it lies at b = (sqrt(a) - 1) / (a - 1). About 22 places, in each of which
    the std falls by 10 %, summed from their left ends: 5 % too much; that of 2,000 chains is known to 2 %."""
    d, a = 8, 9.0
    energy = gaussian_energy(torch.zeros(d).double(), a * torch.eye(d).double())
    kernel = MALA(1.0, target_acceptance=0.6, **{**FIXED, "steps": 10})
    path = pilot(energy, IsotropicGaussian(torch.zeros(d).double(), 1.0), kernel, 2000, generator)
    b = path.temperatures("adaptive", 2)
    assert path.length[-1] == pytest.approx((d / 2) ** 0.5 * math.log(a), rel=0.1)
    assert b[0] == 0 and b[2] == 1 and b[1] == pytest.approx((a**0.5 - 1) / (a - 1), rel=0.1)
    assert path.log_eps[-1] < path.log_eps[0] - 0.5  # narrow at the model: steps shrink by about 3


@pytest.mark.parametrize("schedule", ["adaptive", "linear", "sigmoid", "geometric"])
def test_schedules_rise_from_0_to_1(schedule):
    b = Path([0.0, 1.0, 3.0], [0.0, 0.1, 1.0], [0.0, 0.0, 0.0]).temperatures(schedule, 7)
    assert len(b) == 8 and b[0] == 0 and b[-1] == pytest.approx(1) and b == sorted(set(b))


def test_whitened_coordinates_keep_log_z(generator):
    """Z = integral of exp(-E_y(y)) dy, by quadrature; y(x(y)) = y; the base's density is the Gaussian's in x."""
    energy = gaussian_energy(torch.ones(2).double(), covariance(2, generator))
    mean, cov = torch.tensor([0.5, 2.0]).double(), 2 * covariance(2, generator)
    white = Whitened(energy, mean, torch.linalg.cholesky(cov))
    y = torch.randn(500, 2, generator=generator).double()
    assert torch.allclose(white.y(white.x(y)), y)
    expected = torch.distributions.MultivariateNormal(mean, cov).log_prob(white.x(y))
    assert torch.allclose(white.base_log_prob(white.x(y)), expected)
    assert box_log_z(lambda y: white(y.double()), y, 200)[0] == pytest.approx(
        float(energy.exact_log_z().detach()), abs=1e-5
    )


def test_the_base_is_the_gaussian_of_the_data(generator):
    cov = covariance(3, generator)
    data = Points(exact_sample(torch.ones(3).double(), cov, 1000, generator))
    shapes: dict[Shape, Tensor] = {
        "covariance": cov,
        "diagonal": cov.diagonal().diag(),
        "isotropic": cov.diagonal().mean() * torch.eye(3).double(),
    }
    for shape, expected in shapes.items():
        factor = fit_base(lambda x: x.sum(1), data, shape, 0.1).factor
        assert torch.allclose(factor @ factor.T, expected * 1000 / 999 + 0.1 * data.scale**2 * torch.eye(3).double())


def test_the_evaluation_of_a_gaussian_is_the_closed_form(generator):
    """log Z within 4 of its standard errors, and NLL = 1/2 tr(P S') + log Z; both runs agree; the error is told."""
    cov, precision = covariance(5, generator), covariance(5, generator)
    energy = gaussian_energy(torch.zeros(5).double() + 0.5, precision)
    data = Points(exact_sample(torch.zeros(5).double(), cov, 1000, generator))
    report = evaluation()(view(energy, data))
    m, log_z = report.metrics, float(energy.exact_log_z().detach())
    expected = 0.5 * float((precision @ (cov + 0.25)).trace()) + log_z
    assert abs(m["ais_log_z"] - log_z) < 4 * m["ais_log_z_se"] and m["ais_log_z_se"] < 0.1
    assert m["ais_error"] == pytest.approx(m["ais_log_z"] - log_z, abs=1e-12)
    assert m["ais_nll"] - expected == pytest.approx(m["ais_error"], abs=1e-9)
    assert abs(m["ais_gap"]) < 4 * math.hypot(m["ais_log_z_se"], m["ais_log_z_reverse_se"])
    base = -torch.distributions.MultivariateNormal(
        data.mean, cov * 1000 / 999 + 0.1 * data.scale**2 * torch.eye(5).double()
    ).log_prob(data.test)
    assert m["ais_nll_base"] == pytest.approx(float(base.mean()), rel=1e-9)
    assert {"ais_log_z_at_1", "ais_log_z_at_10"} <= m.keys() and report.images["ais"].dtype == torch.uint8
    assert any("ais_nll is optimistic" in note for note in report.notes)


def test_what_has_no_z_and_few_chains(generator):
    """A score network is told; two samples serve; an energy that is not finite gives nan, and says so."""

    class Score:
        has_energy = False

    data = Points(exact_sample(torch.zeros(3).double(), torch.eye(3).double(), 100, generator))
    assert "no energy" in str(reason_against(evaluation(), view(Score(), data)))
    energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double())
    assert evaluation(temperatures=1)(view(energy, data, count=1)).metrics["ais_chains"] == 2
    broken = evaluation(temperatures=5)(view(lambda x: energy(x) + torch.nan, data))
    assert math.isnan(broken.metrics["ais_log_z"]) and any("not finite" in note for note in broken.notes)


def test_bits_per_dimension_are_those_of_raw_units(generator):
    """A Gaussian of std s grey levels has log2(s sqrt(2 pi e)) bits a pixel; the model sees (raw - 8) / 8."""
    s, raw = 3.0, 8 + 3.0 * exact_sample(torch.zeros(4).double(), torch.eye(4).double(), 500, generator)
    data = Points((raw.view(-1, 1, 2, 2) - 8) / 8, (-1.0, 1.0))
    data.transform = Affine(torch.tensor(8.0), torch.tensor(8.0))
    energy = gaussian_energy(torch.zeros(4).double(), (8 / s) ** 2 * torch.eye(4).double())
    expected = math.log2(s * math.sqrt(2 * math.pi * math.e))
    metrics = Likelihood(cells=10)(view(energy, data)).metrics
    assert metrics["bits_per_dim"] == pytest.approx(expected, abs=1e-9)
    assert metrics["bits_per_dim"] == pytest.approx(bits_per_dim(metrics["nll"], data))
    by_ais = evaluation()(view(energy, data)).metrics
    shift = (by_ais["ais_log_z"] - metrics["log_z"]) / (4 * math.log(2))
    assert by_ais["ais_bits_per_dim"] == pytest.approx(expected + shift, abs=1e-9)


def test_reverse_starts_at_the_trainings_chains(generator):
    """Chains far from the model, which at one temperature no move brings nearer: the gap is -mean of their u, log Z."""
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    data = Points(exact_sample(torch.zeros(2).double(), torch.eye(2).double(), 100, generator))
    far = view(energy, data, chains=torch.full((10, 2), 20.0).double())
    near = view(energy, data)
    reports = [evaluation(reverse_moves=0, temperatures=1)(v) for v in (near, far)]
    gaps = [r.metrics["ais_gap"] for r in reports]
    assert abs(gaps[0]) < 0.5 and gaps[1] < -3
    assert "reverse starts far from the model's law" in reports[1].notes[-1]


def test_hmc_serves_as_well_as_mala(generator):
    energy = gaussian_energy(torch.ones(10).double(), torch.linalg.inv(covariance(10, generator)))

    def hmc(target: float | None = 0.8):
        return HMC(1.0, leapfrog=3, target_acceptance=target, **FIXED)

    run = journey(energy, IsotropicGaussian(torch.zeros(10).double(), 1.5), generator, kernel=hmc)
    calibrated(run.forward(640, 200), float(energy.exact_log_z().detach()))
