"""Noise-contrastive estimation: its gradient against the likelihood's, its optimum, its log Z, its noise laws."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.distributions.elementary import Gaussian, IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.noise import fit_noise
from ebm_lab.objectives.nce import NCE, noise_contrastive_estimation
from tests.helpers import Points, covariance, exact_sample, gaussian_energy


def grid(n=20_001, reach=12.0):
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    return x.view(-1, 1), float(x[1] - x[0])


def expected_loss(energy, log_z, data_density, noise, k):
    """The loss of the objective's own logit h, integrated over the line: E_p softplus(-h) + k E_pn softplus(h)."""
    x, cell = grid()
    h = noise_contrastive_estimation(energy, log_z, x, x.repeat(k, 1), noise)[1]
    softplus = torch.nn.functional.softplus
    p, p_n = data_density(x), noise.log_prob(x).exp()
    return (p * softplus(-h) + k * p_n * softplus(h)).sum() * cell


def normal(mean, std):
    return lambda x: torch.exp(-0.5 * ((x[:, 0] - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def test_gradient_tends_to_the_likelihood_s_as_one_over_k():
    """Noise N(0, 2^2), c = log Z: the error of the gradient in the precision falls tenfold for tenfold k."""
    noise = IsotropicGaussian(torch.zeros(1).double(), 2.0)
    a, s = 0.9, 1.7
    exact = 0.5 * (s - 1 / a)
    errors = []
    for k in (10, 100, 1000):
        energy = gaussian_energy(torch.zeros(1).double(), torch.tensor([[a]], dtype=torch.float64))
        expected_loss(energy, energy.exact_log_z().detach(), normal(0, s**0.5), noise, k).backward()
        grad_a = float(energy.factor.grad[0, 0]) / (2 * a**0.5)
        errors.append(abs(grad_a - exact))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.15) and errors[1] / errors[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("k", [1, 3])
def test_the_equation_is_the_logistic_loss_of_its_logit(k, generator):
    """Against a direct computation with log sigmoids, sample by sample."""
    energy = gaussian_energy(torch.zeros(2).double(), covariance(2, generator))
    noise = IsotropicGaussian(torch.zeros(2).double(), 1.5)
    x, y = torch.randn(6, 2).double(), torch.randn(6 * k, 2).double()
    c = torch.tensor(0.7).double()
    values, h_x, _ = noise_contrastive_estimation(energy, c, x, y, noise)

    def posterior(z):  # of being data, with k noise samples per datum
        p, q = torch.exp(-energy(z) - c), noise.log_prob(z).exp()
        return p / (p + k * q)

    torch.testing.assert_close(torch.sigmoid(h_x), posterior(x))
    expected = -posterior(x).log().mean() - k * (1 - posterior(y)).log().mean()
    torch.testing.assert_close(values.mean(), expected)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("noise_std", [1.0, 3.0])
def test_optimum_is_the_data_s_law_and_its_log_z(k, noise_std):
    """At a = 1/s, c = 1/2 log(2 pi s) all gradients vanish, for any noise and any k; elsewhere they do not."""
    s = 1.7
    noise = IsotropicGaussian(torch.zeros(1).double(), noise_std)
    for off in (0.0, 0.1):
        energy = gaussian_energy(torch.zeros(1).double(), torch.tensor([[1 / s + off]], dtype=torch.float64))
        c = torch.tensor(0.5 * math.log(2 * math.pi * s) + off, dtype=torch.float64, requires_grad=True)
        expected_loss(energy, c, normal(0, s**0.5), noise, k).backward()
        grads = [abs(float(c.grad)), float(energy.factor.grad.abs().max()), float(energy.mean.grad.abs().max())]
        assert max(grads) < 1e-8 if off == 0.0 else max(grads) > 1e-3


@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.slow
def test_training_finds_precision_and_log_z(d, generator):
    cov = covariance(d, generator)
    x = exact_sample(torch.zeros(d).double(), cov, 4000, generator).float()
    energy = gaussian_energy(torch.zeros(d).double(), 0.5 * torch.eye(d).double()).float()
    objective = NCE(
        energy, Points(x), generator, noise="gaussian", components=1, widen=1.2, noise_ratio=10, data_noise=0.0
    )
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1000)
    for _ in range(1000):
        optimiser.zero_grad()
        objective(Batch(x)).value.backward()
        optimiser.step()
        schedule.step()
    expected = torch.linalg.inv(cov).float()
    torch.testing.assert_close(energy.precision.detach(), expected, atol=0.05 * float(expected.max()), rtol=0)
    assert objective.log_z.item() == pytest.approx(float(energy.exact_log_z().detach()), abs=0.03)


def test_log_z_begins_at_the_estimate_under_the_noise(generator):
    """Importance sampling with noise twice as wide: log Z of a known Gaussian within 0.1."""
    x = torch.randn(2000, 2, generator=generator)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()).float()
    objective = NCE(
        energy, Points(x), generator, noise="gaussian", components=1, widen=1.5, noise_ratio=1, data_noise=0.0
    )
    assert objective.log_z.item() == pytest.approx(math.log(2 * math.pi), abs=0.1)


@pytest.mark.parametrize("law", ["gaussian", "mixture", "uniform"])
def test_noise_laws_have_unit_mass_and_are_what_they_sample(law, generator):
    """log_prob integrates to 1 over the plane, and the mean log_prob of its own samples is minus its entropy."""
    x = torch.cat([torch.randn(500, 2, generator=generator) - 2, 0.5 * torch.randn(500, 2, generator=generator) + 2])
    noise = fit_noise(law, x, 2, 1.3, 0.0, generator)
    axis = torch.linspace(-12, 12, 481)
    nodes = torch.cartesian_prod(axis, axis)
    log_p = noise.log_prob(nodes).double()
    assert float(log_p.exp().sum()) * 0.05**2 == pytest.approx(1.0, abs=0.02 if law == "uniform" else 1e-3)
    entropy = -float((log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum()) * 0.05**2
    draws = noise.log_prob(noise.sample(20_000, generator))
    assert -float(draws.mean()) == pytest.approx(entropy, abs=0.03 if law != "uniform" else 0.1)
    assert draws.isfinite().all()


def test_gaussian_noise_has_the_data_s_moments_widened(generator):
    x = exact_sample(torch.ones(3).double(), covariance(3, generator), 1000, generator)
    noise = fit_noise("gaussian", x.float().view(1000, 3, 1), 1, 2.0, 0.0, generator)
    draws = noise.sample(100_000, generator)
    assert draws.shape == (100_000, 3, 1)
    torch.testing.assert_close(draws.flatten(1).T.cov().double(), 4 * x.T.cov(), rtol=0.05, atol=0.05)
    torch.testing.assert_close(draws.mean(0).flatten().double(), x.mean(0), rtol=0.0, atol=0.05)  # five errors


def test_the_gaussian_s_density_is_the_textbook_s(generator):
    """Over flattened coordinates, and of a mixture's single component alike."""
    mean, cov = torch.randn(2, 2, generator=generator).double(), covariance(4, generator)
    x = torch.randn(50, 2, 2, generator=generator).double()
    known = MultivariateNormal(mean.flatten(), cov).log_prob(x.flatten(1))
    torch.testing.assert_close(Gaussian(mean, cov).log_prob(x), known)
    alone = GaussianMixture(torch.ones(1).double(), mean[None], covariances=cov[None])
    torch.testing.assert_close(alone.log_prob(x), known)


def test_the_objective_counts_reports_and_blurs(generator):
    """A model that is the data's own law against noise three times as wide: k + 1 gradients per datum, an accuracy
    beyond chance, an exact loss; and data noise of the given std, which widens the fitted noise too."""
    x = exact_sample(torch.zeros(2).double(), torch.eye(2).double(), 2000, generator)
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    settings = {"noise": "gaussian", "components": 1, "widen": 3.0, "noise_ratio": 2}
    objective = NCE(energy, Points(x), generator, data_noise=0.0, **settings).double()
    loss = objective(Batch(x))
    assert loss.grad_evals == 3 * 2000
    ratio = lambda z: -energy(z) - objective.log_z - objective.noise.log_prob(z) - math.log(2)  # noqa: E731
    told = float((ratio(x) > 0).double().mean())
    other = float((ratio(objective.noise.sample(20_000, generator)) < 0).double().mean())
    assert float(loss.metrics["accuracy"]) == pytest.approx((told + other) / 2, abs=0.03)  # 5 standard errors
    assert (told + other) / 2 > 0.7

    seen = []

    class Record(torch.nn.Module):
        def forward(self, z):
            seen.append(z.detach())
            return z.square().sum(1)

    data = Points(5 * x)
    blurred = NCE(Record(), data, generator, data_noise=0.2, **{**settings, "widen": 1.0})
    blurred(Batch(torch.zeros(4000, 2).double()))
    assert float(seen[-1][:4000].std()) == pytest.approx(0.2 * data.scale, rel=0.04)  # 5 standard errors
    draws = blurred.noise.sample(100_000, generator)
    assert float(draws.var(0).mean()) == pytest.approx(25 * (1 + 0.04 + 0.001), rel=0.02)


def test_noise_is_regular_where_the_data_are_not(generator):
    """A coordinate that never changes gets a thousandth of the mean variance: a density, and draws near the data."""
    x = torch.cat([torch.randn(2000, 1, generator=generator), torch.full((2000, 1), 4.0)], 1)
    for law in ("gaussian", "mixture"):
        noise = fit_noise(law, x, 2, 1.0, 0.0, generator)
        draws = noise.sample(20_000, generator)
        assert noise.log_prob(x).isfinite().all()
        assert float(draws[:, 1].var()) == pytest.approx(1e-3 * 0.5, rel=1.1) and float(draws[:, 1].mean()) > 3.9


def test_uniform_noise_covers_the_data_and_their_noise(generator):
    """Range plus 3 stds of data noise, plus 5 % of the whole on either side, plus half of what `widen` adds."""
    x = torch.stack([torch.linspace(-1, 1, 50), torch.linspace(0, 10, 50)], 1)
    box = fit_noise("uniform", x, 1, 1.0, 0.0, generator)
    torch.testing.assert_close(box.low, torch.tensor([-1.1, -0.5]))
    torch.testing.assert_close(box.high, torch.tensor([1.1, 10.5]))
    box = fit_noise("uniform", x, 1, 1.5, 0.1, generator)
    torch.testing.assert_close(box.low, torch.tensor([-1.3 - 0.3 * 2.6, -0.3 - 0.3 * 10.6]))
    torch.testing.assert_close(box.high, torch.tensor([1.3 + 0.3 * 2.6, 10.3 + 0.3 * 10.6]))


def test_noise_narrower_than_the_data_is_refused(generator):
    with pytest.raises(UserError, match="objective.widen=0.9: noise narrower than the data teaches no density"):
        fit_noise("gaussian", torch.randn(50, 2, generator=generator), 1, 0.9, 0.0, generator)


def test_mixture_noise_depends_on_the_generator_alone():
    x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1))
    first, second = (fit_noise("mixture", x, 5, 1.0, 0.0, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first.log_prob(x), second.log_prob(x))


def test_an_energy_of_shape_b1_is_refused(generator):
    with pytest.raises(UserError, match="it must return one value per sample"):
        NCE(
            torch.nn.Linear(2, 1),
            Points(torch.randn(64, 2)),
            generator,
            noise="gaussian",
            components=1,
            widen=1.0,
            noise_ratio=1,
            data_noise=0.0,
        )
