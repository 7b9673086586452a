"""Conditional NCE and minimum probability flow: their odds, their optimum for any kernel, closed forms."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives._kernels import Kernel, move
from ebm_lab.objectives.cnce import CNCE, conditional_nce, conditional_odds, shifted_nce
from ebm_lab.objectives.mpf import MPF, minimum_probability_flow
from scripts.theory.line import LineEnergy, gradient, normal_nodes, with_noise
from tests.helpers import Points, covariance, exact_sample, gaussian_energy

EQUATIONS = [conditional_nce, minimum_probability_flow]


@pytest.mark.parametrize("pull", [0.0, 0.4])
def test_the_log_ratio_is_that_of_the_two_densities(pull, generator):
    """log p_c(x' | x) - log p_c(x | x') against the normal densities themselves."""
    x, z = (torch.randn(8, 3, generator=generator).double() for _ in range(2))
    centre, width = torch.tensor([1.0, -2.0, 0.5]).double(), torch.rand(8, generator=generator).double() + 0.3
    new, ratio = move(x, z, centre, pull, width)

    def log_density(to, start):
        mean, cov = centre + (1 - pull) * (start - centre), width[:, None, None] ** 2 * torch.eye(3).double()
        return MultivariateNormal(mean, cov).log_prob(to)

    torch.testing.assert_close(new, centre + (1 - pull) * (x - centre) + width[:, None] * z)
    torch.testing.assert_close(ratio, log_density(new, x) - log_density(x, new))


def test_the_kernel_draws_widths_between_its_bounds_and_stays_symmetric(generator):
    """z and width of each point: |x' - x| / width is standard normal; log width is uniform (means within 4 errors)."""
    x = torch.zeros(40_000, 2)
    new, ratio = Kernel(torch.zeros(2), 0.0, 0.1, 0.9)(x, generator)
    assert not ratio.any()
    second = math.exp(2 * math.log(0.1)) * ((0.9 / 0.1) ** 2 - 1) / (2 * math.log(9))  # E width^2
    assert float(new.square().mean()) == pytest.approx(second, rel=0.03)


@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_the_odds_are_those_of_the_datum_against_its_copy(pull, generator):
    """sigmoid(G) = phi(x) p_c(x'|x) / (phi(x) p_c(x'|x) + phi(x') p_c(x|x'))."""
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    x, z = (torch.randn(20, 2, generator=generator).double() for _ in range(2))
    new, ratio = move(x, z, torch.ones(2).double(), pull, torch.full((20,), 0.7).double())
    odds = conditional_odds(energy, x, new, ratio)[0]
    one, other = torch.exp(-energy(x) + ratio), torch.exp(-energy(new))
    torch.testing.assert_close(torch.sigmoid(odds), one / (one + other))
    torch.testing.assert_close(conditional_nce(energy, x, new, ratio)[0], -2 * (one / (one + other)).log())
    torch.testing.assert_close(minimum_probability_flow(energy, x, new, ratio)[0], (other / one).sqrt())


@pytest.mark.parametrize("pull", [0.0, 0.3])
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("width", [0.3, 1.0])
def test_the_optimum_on_the_line_is_the_data_s_law(equation, width, pull):
    """Data N(0, 1.7), E = a x^2 / 2 + b x: all gradients vanish at a = 1 / 1.7, b = 0, whatever the kernel; not with
    the kernel's ratio left out or of the wrong sign, nor a tenth away."""
    s, centre = 1.7, torch.full((1,), 0.5).double()
    x, q = normal_nodes(80)
    xx, z, p = with_noise(s**0.5 * x[:, None], q, 80)
    new, ratio = move(xx, z, centre, pull, torch.full((len(xx),), width).double())

    def size(a, sign):
        energy = LineEnergy((a, 0.0, 0.0))
        return float(gradient(energy, (p * equation(energy, xx, new, sign * ratio)[0]).sum())[:2].abs().max())

    assert size(1 / s, 1.0) < 1e-5
    assert size(1.1 / s, 1.0) > 3e-4
    if pull:
        assert size(1 / s, 0.0) > 3e-4 and size(1 / s, -1.0) > 3e-4


@pytest.mark.parametrize("pull", [0.0, 0.3])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_probability_flow_of_gaussians_is_a_determinant(d, pull, generator):
    """K = |I + Sigma Q|^(-1/2) for data N(0, S): -G/2 is quadratic in (x, z). 400,000 draws, 4 standard errors."""
    n, w, r = 400_000 // d, 0.3 / d**0.5, 1 - pull
    cov = covariance(d, generator)
    precision = torch.linalg.inv(cov) * 1.2
    energy, eye = gaussian_energy(torch.zeros(d).double(), precision), torch.eye(d).double()
    if pull:
        w = (1 - r * r) ** 0.5  # where the kernel alone is symmetric under N(0, I), so that K is finite
    x = torch.randn(n, d, generator=generator).double() @ torch.linalg.cholesky(cov).T
    z = torch.randn(n, d, generator=generator).double()
    new, ratio = move(x, z, torch.zeros(d).double(), pull, torch.full((n,), w).double())
    values = minimum_probability_flow(energy, x, new, ratio)[0].detach()
    bend = precision - (1 - r * r) / w**2 * eye
    there, here = torch.cat([r * eye, w * eye], 1), torch.cat([eye, 0 * eye], 1)
    form = 0.5 * (there.T @ bend @ there - here.T @ bend @ here)
    joint = torch.block_diag(cov, eye)
    expected = float(torch.linalg.det(torch.eye(2 * d).double() + joint @ form)) ** -0.5
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / n**0.5


@pytest.mark.parametrize("kind", [CNCE, MPF])
@pytest.mark.parametrize("pull", [0.0, 0.2])
@pytest.mark.parametrize("d", [2, 10])
def test_the_objective_s_gradient_vanishes_at_the_truth_in_any_dimension(kind, pull, d, generator):
    """At mu = m, P = S^-1 the mean gradient over 60 batches is 0 within 4.5 standard errors; at 1.3 P it is not."""
    m, cov = torch.linspace(-1, 1, d).double(), covariance(d, generator)
    root = torch.linalg.cholesky(cov)
    setting = {"width_min": 0.2 / d**0.5, "width_max": 0.5 / d**0.5, "pull": pull, "copies": 1, "data_noise": 0.0}
    if pull:  # near the width under which the kernel alone keeps the data's law: finite variance for MPF
        setting |= {"width_min": 0.6, "width_max": 0.6}
    data = Points(exact_sample(m, cov, 1000, generator))
    for factor in (1.0, 1.3):
        energy, grads = gaussian_energy(m, factor * torch.linalg.inv(cov)), []
        objective = kind(energy, data, generator, **setting)
        for _ in range(60):
            energy.zero_grad()
            objective(Batch(m + torch.randn(2000, d, generator=generator).double() @ root.T)).value.backward()
            grads.append(energy.factor.grad.diagonal().clone())
        grads = torch.stack(grads)
        z = (grads.mean(0) / (grads.std(0) / 60**0.5)).abs().max()
        assert z < 4.5 if factor == 1.0 else z > 6


def test_the_shifted_form_is_its_two_softpluses(generator):
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    x, v = (torch.randn(9, 2, generator=generator).double() for _ in range(2))
    softplus = torch.nn.functional.softplus
    expected = softplus(energy(x) - energy(x - v)) + softplus(energy(x) - energy(x + v))
    torch.testing.assert_close(shifted_nce(energy, x, v), expected)


def test_wrong_widths_and_pulls_are_one_line(generator):
    x = Points(torch.randn(9, 2))
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    good = {"width_min": 0.1, "width_max": 0.2, "pull": 0.0, "copies": 1, "data_noise": 0.0}
    with pytest.raises(UserError, match="objective.width_max=0.05: must be at least width_min=0.1"):
        CNCE(energy, x, generator, **{**good, "width_max": 0.05})
    with pytest.raises(UserError, match="objective.pull=1.0: must be less than 1"):
        MPF(energy, x, generator, **{**good, "pull": 1.0})


@pytest.mark.parametrize("d, widths", [(1, (0.05, 2.0)), (3, (0.05, 2.0)), (4, (0.8, 12.5)), (100, (0.16, 2.5))])
def test_auto_widths_go_by_the_dimension(d, widths, generator):
    """In units of the data's scale; and they stand in the run's config, so that a resumed run keeps them."""
    data = Points(3 * torch.randn(500, d, generator=generator))
    others = {"pull": 0.0, "copies": 1, "data_noise": 0.0}
    energy = gaussian_energy(torch.zeros(d).double(), torch.eye(d).double())
    auto = CNCE(energy, data, generator, width_min="auto", width_max="auto", **others)
    assert (auto.kernel.narrow, auto.kernel.wide) == pytest.approx([w * data.scale for w in widths])
    assert (auto.resolved["width_min"], auto.resolved["width_max"]) == widths
    half = CNCE(energy, data, generator, width_min=0.1, width_max="auto", **others)
    assert half.kernel.narrow == pytest.approx(0.1 * data.scale) and "width_min" not in half.resolved
