"""The kernel Stein discrepancy as a loss: closed forms, the U-statistic by its definition, its zero at the truth."""

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.distributions.base import MixtureBase
from ebm_lab.objectives.ksd import KERNELS, KSD, Tilt, kernel_stein_discrepancy
from ebm_lab.runs.assemble import assemble
from ebm_lab.statistics.prdc import median_distance
from ebm_lab.statistics.stein import u_statistic
from tests.helpers import Points, gaussian_energy
from tests.runs.test_resume import QUICK

A, S = 0.9, 1.7
SETTINGS = {"kernel": "imq", "widths": [0.5, 1.0], "data_noise": 0.0, "tilt": 0.0}


def isotropic(a, d=1):
    return gaussian_energy(torch.zeros(d).double(), a * torch.eye(d).double())


def population(energy, kernel, d=1, n=400, b=0.0):
    """E h(x, x') for independent x, x' from N(0, S I) and width 1, by the trapezoid rule; m = exp(b |x|^2 / 2)."""
    z = torch.linspace(-7, 7, n, dtype=torch.float64)
    x = S**0.5 * torch.cartesian_prod(*[z] * d).view(-1, d)
    p = torch.exp(-x.square().sum(1) / (2 * S))
    x, p = x[p > 1e-10], p[p > 1e-10] / p.sum()
    p = p * (0.5 * b * x.square().sum(1)).exp()
    return p @ KERNELS[kernel](x, energy.score(x, create_graph=True) + b * x, 1.0) @ p


@pytest.mark.parametrize("d, expected", [(1, 0.0640393), (2, 0.0782423)])
def test_a_weight_has_the_closed_form(d, expected):
    """(t / s)^d (1/s - a)^2 d t^2 / h^2 (1 + 2 t / h^2)^-(d/2 + 1) at h = 1, 1/t = 1/s - b."""
    b = 0.2
    t = 1 / (1 / S - b)
    exact = (t / S) ** d * (1 / S - A) ** 2 * d * t**2 * (1 + 2 * t) ** -(d / 2 + 1)
    value = float(population(isotropic(A, d), "rbf", d, 400 if d == 1 else 60, b).detach())
    assert value == pytest.approx(exact, rel=1e-4) and exact == pytest.approx(expected, abs=1e-7)


def tilt(generator, power=0.5):
    """m by a mixture of two Gaussians in three dimensions, from 400 of its points; with the points."""
    means = torch.tensor([[-1.0, 0.0, 0.5], [1.5, 0.5, 0.0]]).double()
    law = MixtureBase((3,), torch.tensor([0.3, 0.7]).double(), means, None, torch.full((2, 3), 0.6).double())
    x = law.sample(400, generator)
    return Tilt(law, x, power), x


def test_low_density_is_weighed_up_to_a_bound(generator):
    """m = ((q + q_0) / (q_m + q_0))^-1/2, its logarithm's gradient by autograd, and its limit far away."""
    weight, x = tilt(generator)
    q = (-weight.law(x)).exp()
    floor, median = (q.log().quantile(share).exp() for share in (0.001, 0.5))
    m, pull = weight(x)
    torch.testing.assert_close(m, ((q + floor) / (median + floor)) ** -0.5)
    leaf = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(weight(leaf)[0].log().sum(), leaf)
    torch.testing.assert_close(pull, by_autograd.detach())
    torch.testing.assert_close(weight(50 * torch.ones(1, 3).double())[0][0], (floor / (median + floor)) ** -0.5)


@pytest.mark.parametrize("d, expected", [(1, 0.0304350), (2, 0.0290186)])
def test_the_gaussian_kernel_has_the_closed_form(d, expected):
    """(1/s - a)^2 d s^2 / h^2 (1 + 2 s / h^2)^-(d/2 + 1) at h = 1."""
    exact = (1 / S - A) ** 2 * d * S**2 * (1 + 2 * S) ** -(d / 2 + 1)
    value = float(population(isotropic(A, d), "rbf", d, 400 if d == 1 else 40).detach())
    assert value == pytest.approx(exact, rel=1e-6) and exact == pytest.approx(expected, abs=1e-7)


def test_the_inverse_multiquadric_has_its_value():
    assert float(population(isotropic(A), "imq").detach()) == pytest.approx(0.0221269, abs=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_vanishes_at_the_truth_alone(kernel):
    """d KSD^2 / da, exactly: 0 at a = 1 / s, negative below it and positive above it."""
    slopes = []
    for a in (0.8 / S, 1 / S, 1.2 / S):
        energy = isotropic(a)
        population(energy, kernel).backward()
        slopes.append(float(energy.factor.grad))
    assert slopes[0] < -1e-3 and abs(slopes[1]) < 1e-9 and slopes[2] > 1e-3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_loss_is_the_mean_over_pairs_of_the_definition(kernel, weighted, generator):
    """Every pair i != j, with the derivatives of the kernel m(x) k(x, y) m(y) by autograd, at two widths."""
    weight = tilt(generator)[0] if weighted else None
    x = torch.randn(6, 3, generator=generator).double()
    energy = gaussian_energy(torch.ones(3).double(), torch.diag(torch.tensor([1.0, 2.0, 0.5]).double()))
    s, widths = energy.score(x), [0.7, 2.0]

    def k(a, b, c):
        r2 = (a - b).square().sum()
        m = 1.0 if weight is None else weight(a[None])[0][0] * weight(b[None])[0][0]
        return m * ((1 + r2 / c**2) ** -0.5 if kernel == "imq" else torch.exp(-r2 / (2 * c**2)))

    def h(i, j, c):
        a, b = x[i], x[j]
        by_a = torch.autograd.functional.jacobian(lambda t: k(t, b, c), a)
        by_b = torch.autograd.functional.jacobian(lambda t: k(a, t, c), b)
        both = torch.autograd.functional.hessian(lambda t: k(t[:3], t[3:], c), torch.cat([a, b]))[:3, 3:]
        return s[i] @ s[j] * k(a, b, c) + s[i] @ by_b + s[j] @ by_a + both.trace()

    pairs = [h(i, j, c) for c in widths for i in range(6) for j in range(6) if i != j]
    value, e, found = kernel_stein_discrepancy(energy, x, kernel, widths, weight)
    torch.testing.assert_close(value.detach(), torch.stack(pairs).mean())
    torch.testing.assert_close(found.detach(), s)
    torch.testing.assert_close(e, energy(x))


@pytest.mark.parametrize("kernel", KERNELS)
def test_its_value_and_gradient_are_unbiased_on_batches(kernel, generator):
    """The U-statistics of 4,000 batches of 8 from N(0, s), and their slopes in a, have the population's values as their
    means, within 4 standard errors, at the truth and off it; they are quadratic in a, so that a difference is exact."""
    x = S**0.5 * torch.randn(4000, 8, 1, generator=generator).double()
    for a in (1 / S, A):
        expected = [float(population(isotropic(a + off), kernel).detach()) for off in (0, 0.1, -0.1)]
        found = [u_statistic(KERNELS[kernel](x, -(a + off) * x, 1.0)) for off in (0, 0.1, -0.1)]
        for value, mean in ((found[0], expected[0]), (found[1] - found[2], expected[1] - expected[2])):
            assert float(value.mean()) == pytest.approx(mean, abs=4 * float(value.std()) / 4000**0.5)


def test_widths_are_in_units_of_the_median_distance_and_noise_of_the_scale(generator):
    data = Points(5 * torch.randn(400, 2, generator=generator).double())
    objective = KSD(isotropic(1.0, 2), data, generator, 64, **{**SETTINGS, "data_noise": 0.2})
    unit = median_distance(data.train)
    assert objective.widths == pytest.approx([0.5 * unit, unit])
    assert objective.data_noise == objective.sees_within() == pytest.approx(0.2 * data.scale)
    loss = objective(Batch(data.train[:64]))
    assert loss.grad_evals == 128 and loss.metrics.keys() == {"loss", "e_pos", "score_norm"}
    assert not any(value.requires_grad for value in loss.metrics.values())
    quiet = KSD(isotropic(1.0, 2), data, generator, 64, **SETTINGS)
    x = data.train[:64]
    assert float(quiet(Batch(x)).metrics["score_norm"]) == pytest.approx(float(x.norm(dim=1).mean()))
    assert float(quiet(Batch(x)).metrics["e_pos"]) == pytest.approx(float(x.square().sum(1).mean() / 2))


def test_what_gives_no_pairs_or_no_width_is_refused(generator):
    data = Points(torch.ones(50, 2).double())
    with pytest.raises(UserError, match="objective=ksd: most training points are equal"):
        KSD(isotropic(1.0, 2), data, generator, 64, **SETTINGS)
    with pytest.raises(UserError, match="batch_size=1: must be at least 2"):
        KSD(isotropic(1.0, 2), Points(torch.randn(9, 2).double()), generator, 1, **SETTINGS)


def test_a_batch_in_parts_is_refused():
    with pytest.raises(UserError, match="accumulate=2: the batch can't be cut into parts, for objective=ksd compares"):
        assemble(compose_config([*QUICK, "objective=ksd", "accumulate=2"]))


def test_a_tilt_of_images_is_refused():
    with pytest.raises(UserError, match=r"objective.tilt=0.5: is for points; for images choose objective.tilt=0"):
        assemble(compose_config(["dataset=digits", "objective=ksd", "objective.tilt=0.5", "logger=none"]))
