"""The deep kernel exponential family against closed forms."""

import math

import pytest
import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import score, score_and_trace
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.distributions.quadrature import grid_log_z
from ebm_lab.energies.dkef import DKEF, Features, gaussian_kernel
from tests.helpers import Points


def plain(data, alpha, z, width, base=2.0):
    """One kernel in the identity's features: k(z, x) = exp(-|u - z|^2 / (2 d width^2)), in float64."""
    d = data.mean.numel()
    energy = DKEF(data, points=len(z), widths=[width], hidden=[4], features=d, base=base).double()
    phi = energy.features[0]
    assert isinstance(phi, Features)
    with torch.no_grad():
        phi.skip.weight.copy_(torch.eye(d))
        for parameter in phi.net.parameters():
            parameter.zero_()
        energy.z.copy_(torch.as_tensor(z))
        energy.alpha.copy_(torch.as_tensor(alpha))
    return energy


@pytest.fixture
def data(generator):
    return Points(2 + 3 * torch.randn(100, 2, generator=generator).double())


def test_it_begins_as_its_base(data):
    """alpha = 0: E = -log q_0, whose Z is 1."""
    energy = DKEF(data, points=20, widths=[0.3, 1.0], hidden=[5], features=7, base=2.0).double()
    base = IsotropicGaussian(data.mean, 2 * data.scale)
    torch.testing.assert_close(energy(data.train), -base.log_prob(data.train))


def test_energy_score_and_laplacian_of_one_kernel_are_the_closed_forms(data):
    """With r = u - z and v = d width^2:
    E = -a k - log q_0,    s = -a k r / (v scale) - (x - m) / b^2,
    tr grad s = a k (|r|^2 / v^2 - d / v) / scale^2 - d / b^2."""
    a, z, width, d = 1.7, torch.tensor([[0.4, -0.3]]).double(), 0.5, 2
    energy = plain(data, [a], z, width)
    x, v, b = data.train[:20], d * width**2, 2 * data.scale
    r = (x - data.mean) / data.scale - z
    k = torch.exp(-r.square().sum(1) / (2 * v))
    torch.testing.assert_close(energy(x), -a * k - IsotropicGaussian(data.mean, b).log_prob(x))
    expected = -a * k[:, None] * r / (v * data.scale) - (x - data.mean) / b**2
    torch.testing.assert_close(score(energy, x), expected)
    trace = a * k * (r.square().sum(1) / v**2 - d / v) / data.scale**2 - d / b**2
    torch.testing.assert_close(score_and_trace(energy, x, d)[2], trace)


@pytest.mark.parametrize("a", [1.3, -2.0])
def test_z_of_one_kernel_on_the_line_is_its_series(a, generator):
    """Z = E_q0[exp(a k)] = sum_n a^n / n! E_q0[k^n], and k^n is a Gaussian function of variance v / n, whose mean under
    N(0, b^2) is sqrt(v / (v + n b^2)) exp(-n z^2 / (2 (v + n b^2))), in units of the data's scale."""
    data, z, width, b = Points(torch.randn(50, 1, generator=generator).double()), 0.8, 0.6, 2.0
    v, series = width**2, 0.0
    for n in range(40):
        mean = math.sqrt(v / (v + n * b * b)) * math.exp(-n * z * z / (2 * (v + n * b * b)))
        series += a**n / math.factorial(n) * mean
    energy, reach = plain(data, [a], [[z]], width, b), torch.tensor([20 * data.scale]).double()
    log_z = grid_log_z(energy, data.mean - reach, data.mean + reach, 4000)
    assert log_z == pytest.approx(math.log(series), abs=1e-6)  # the grid's axes are float32


def test_the_correction_is_a_sum_of_kernels_in_learnt_features(data):
    """sum_rl alpha_rl exp(-|phi_r(z_l) - phi_r(x)|^2 / (2 features w_r^2)), with the module's own phi; a kernel is 1 at
    its own point, and |E + log q_0| at most sum |alpha|."""
    energy = DKEF(data, points=10, widths=[0.3, 1.0], hidden=[5, 5], features=7, base=2.0).double()
    with torch.no_grad():
        energy.alpha.normal_(generator=torch.Generator().manual_seed(0))
    x = data.train[:6]
    u, expected = (x - data.mean) / data.scale, 0.0
    for alpha, width, phi in zip(energy.alpha, (0.3, 1.0), energy.features, strict=True):
        square = (phi(u)[:, None] - phi(energy.z)[None]).square().sum(2)
        expected = expected + torch.exp(-square / (2 * 7 * width**2)) @ alpha
    correction = energy(data.train) + IsotropicGaussian(data.mean, 2 * data.scale).log_prob(data.train)
    torch.testing.assert_close(correction[:6], -expected, atol=1e-6, rtol=1e-6)  # w was made in float32
    torch.testing.assert_close(gaussian_kernel(u, u, 0.5).diagonal(), torch.ones(6).double())
    assert float(correction.detach().abs().max()) <= float(energy.alpha.detach().abs().sum())


def test_more_points_than_data_is_a_mistake(data):
    with pytest.raises(UserError, match=r"energy.points=101: must be at most the number of training points, 100"):
        DKEF(data, points=101, widths=[1.0], hidden=[4], features=3, base=2.0)


@pytest.mark.slow
def test_it_fits_a_mixture(tmp_path):
    """Three modes in the plane, to within 0.05 nats of their density."""
    run = ebm_lab.train(
        [
            *("objective=nce", "dataset=mixture", "energy=dkef", "energy.points=60", "optim.lr=0.03"),
            *("steps=400", "logger=none", "threads=1", "evaluation=[likelihood]", f"output_dir={tmp_path}"),
        ],
        quiet=True,
    )
    assert run.status == "finished" and run.summary["nll_gap"] < 0.05
