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
from ebm_lab.objectives.nce import (
    BREGMAN,
    CAP,
    NCE,
    bregman_ratio_estimation,
    capped_exp,
    noise_contrastive_estimation,
)
from scripts.theory.line import data, nodes
from tests.exhaustive import cases
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


@pytest.mark.parametrize("d", cases([1, 2, 10], [1, 2]))
@pytest.mark.slow
def test_training_finds_precision_and_log_z(d, generator):
    cov = covariance(d, generator)
    x = exact_sample(torch.zeros(d).double(), cov, 4000, generator).float()
    energy = gaussian_energy(torch.zeros(d).double(), 0.5 * torch.eye(d).double()).float()
    objective = NCE(
        energy,
        Points(x),
        generator,
        noise="gaussian",
        components=1,
        widen=1.2,
        noise_ratio=10,
        data_noise=0.0,
        loss="logistic",
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
        energy,
        Points(x),
        generator,
        noise="gaussian",
        components=1,
        widen=1.5,
        noise_ratio=1,
        data_noise=0.0,
        loss="logistic",
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
    settings = {"noise": "gaussian", "components": 1, "widen": 3.0, "noise_ratio": 2, "loss": "logistic"}
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
            loss="logistic",
        )


OPTIMA = {
    "logistic": 1.2907615,
    "exponential": 1.8907948,
    "mc_mle": 0.8365857,
    "lsif": -0.6294192,
    "inverse_kl": 0.5439117,
}


class Known(torch.nn.Module):
    """E = -log p of a law, plus a multiple of x."""

    def __init__(self, law, slope=0.0):
        super().__init__()
        self.law, self.slope = law, torch.nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x):
        return self.slope * x[:, 0] - self.law.log_prob(x)


def integrated(energy, log_z, law, noise, loss):
    """The loss of a member of the family, integrated over the line: E_p A + E_pn B."""
    x, w = nodes(8001, 20.0)
    if loss == "logistic":
        h = noise_contrastive_estimation(energy, log_z, x, x, noise)[1]
        of_data, of_noise = lambda h: torch.nn.functional.softplus(-h), torch.nn.functional.softplus
    else:
        h = bregman_ratio_estimation(energy, log_z, x, x, noise, loss)[1]
        of_data, of_noise = BREGMAN[loss]
    p, p_n = law.log_prob(x).exp(), noise.log_prob(x).exp()
    return (w * (p * of_data(h) + p_n * of_noise(h))).sum()


@pytest.mark.parametrize("loss", OPTIMA)
def test_each_loss_has_its_optimal_value_there_and_no_gradient(loss, monkeypatch):
    """.3 N(-1.5, .7^2) + .7 N(1, .9^2) against N(0, 2^2): the values are those of quadrature (2 log 2 - 2 JS, twice the
    Bhattacharyya coefficient, 1 - KL, -(1 + chi^2) / 2, 1 - reverse KL). Off the optimum the loss is higher. Far out
    the ratios exceed exp(CAP), so the cap is raised."""
    monkeypatch.setattr("ebm_lab.objectives.nce.CAP", 500.0)
    law, noise = data(), IsotropicGaussian(torch.zeros(1).double(), 2.0)
    at = {}
    for off in (0.0, 0.05, -0.05):
        energy, c = Known(law, off), torch.tensor(-off, dtype=torch.float64, requires_grad=True)
        value = integrated(energy, c, law, noise, loss)
        value.backward()
        at[off] = float(value.detach()), abs(float(c.grad)), abs(float(energy.slope.grad))
    assert at[0.0][0] == pytest.approx(OPTIMA[loss], abs=2e-7)
    assert at[0.0][1] < 1e-9 and at[0.0][2] < 1e-9
    assert all(at[off][0] > at[0.0][0] + 1e-5 and at[off][1] > 1e-3 for off in (0.05, -0.05))


@pytest.mark.parametrize("loss", BREGMAN)
def test_each_loss_is_bregman_s_for_its_f(loss, generator):
    """E_n[r f'(r) - f(r)] - E_p[f'(r)] for the f of the family, point by point up to a constant, with k noise samples
    averaged."""
    f = {"exponential": lambda r: -2 * r.sqrt(), "mc_mle": lambda r: r * r.log(), "lsif": lambda r: 0.5 * r**2}
    f["inverse_kl"] = lambda r: -r.log()
    constant = {"exponential": 0.0, "mc_mle": 1.0, "lsif": 0.0, "inverse_kl": 1.0}[loss]
    x, y = torch.randn(5, 2, generator=generator).double(), torch.randn(15, 2, generator=generator).double()
    energy, noise = (
        gaussian_energy(torch.zeros(2).double(), covariance(2, generator)),
        IsotropicGaussian(torch.zeros(2).double(), 1.5),
    )
    c = torch.tensor(0.3).double()
    values, h_x, h_y = bregman_ratio_estimation(energy, c, x, y, noise, loss)
    r_x, r_y = ((-energy(z) - c - noise.log_prob(z)).exp().detach().requires_grad_() for z in (x, y))
    torch.testing.assert_close(h_x.exp(), r_x)
    torch.testing.assert_close(h_y.exp(), r_y)
    slope_x, slope_y = (torch.autograd.grad(f[loss](r).sum(), r)[0] for r in (r_x, r_y))
    expected = (r_y * slope_y - f[loss](r_y)).view(3, 5).mean(0) - slope_x
    torch.testing.assert_close(values, expected + constant)


def test_mc_mle_minimised_in_c_is_the_negative_log_likelihood():
    """On N(0, 1.7) and E = .9 x^2 / 2: E_p E + log Z = 1.7366188, beside E_p log p_n, which no parameter changes; the
    least c is log Z."""
    a, s, noise = 0.9, 1.7, IsotropicGaussian(torch.zeros(1).double(), 2.0)
    energy = gaussian_energy(torch.zeros(1).double(), torch.tensor([[a]], dtype=torch.float64))
    x, w = nodes(8001, 20.0)
    p, log_n = normal(0, s**0.5)(x), noise.log_prob(x)
    h = bregman_ratio_estimation(energy, energy.exact_log_z(), x, x, noise, "mc_mle")[1].detach()
    value = float((w * (p * -h + log_n.exp() * (h.exp() - 1))).sum() - (w * p * log_n).sum())
    assert value == pytest.approx(a * s / 2 + 0.5 * math.log(2 * math.pi / a), abs=1e-9)
    assert value == pytest.approx(1.7366188, abs=1e-7)


def hessian(loss, shift):
    """The Hessian of the loss in (theta, c) at the optimum, for p = N(R, 1) and p_n = N(0, 1), by quadrature."""
    noise = IsotropicGaussian(torch.zeros(1).double(), 1.0)
    law = IsotropicGaussian(torch.full((1,), float(shift)).double(), 1.0)

    def value(v):
        energy = lambda z: -law.log_prob(z) - v[0] * z[:, 0]  # noqa: E731
        return integrated(energy, -v[1], law, noise, loss)

    return torch.autograd.functional.hessian(value, torch.zeros(2).double())


def test_the_exponential_loss_is_better_conditioned_than_the_logistic():
    """The trace of its Hessian is 1/2 exp(-R^2 / 8) (2 + R^2 / 4): .4060058 at R = 4, where the logistic loss has
    .1823; condition numbers 33.97 and 87.5."""
    exponential, logistic = (hessian(loss, 4) for loss in ("exponential", "logistic"))
    assert float(exponential.trace()) == pytest.approx(0.5 * math.exp(-2) * 6, rel=1e-6)
    assert float(exponential.trace()) == pytest.approx(0.4060058, abs=1e-7)
    assert float(logistic.trace()) == pytest.approx(0.1823, abs=1e-4)
    found = [float(torch.linalg.cond(h)) for h in (exponential, logistic)]
    assert found == pytest.approx([33.97, 87.5], rel=2e-3)


def test_exponentials_continue_linearly_where_they_would_overflow():
    t = torch.tensor([-2.0, CAP, CAP + 3, 200.0]).double().requires_grad_()
    value = capped_exp(t)
    torch.testing.assert_close(
        value.detach(), torch.tensor([math.exp(-2), *(math.exp(CAP) * k for k in (1, 4, 186))]).double()
    )
    value.sum().backward()
    torch.testing.assert_close(t.grad, torch.tensor([math.exp(-2), *[math.exp(CAP)] * 3]).double())


@pytest.mark.parametrize("loss", BREGMAN)
def test_the_objective_takes_each_loss_and_counts_what_it_caps(loss, generator):
    """The loss is that of its equation; an energy 100 times too steep is capped on one side or both."""
    x = torch.randn(500, 2, generator=generator).double()
    settings = {"noise": "gaussian", "components": 1, "widen": 2.0, "noise_ratio": 2, "data_noise": 0.0, "loss": loss}
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    objective = NCE(energy, Points(x), generator, **settings).double()
    state = generator.get_state()
    told = objective(Batch(x))
    generator.set_state(state)
    y = objective.noise.sample(1000, generator)
    value = bregman_ratio_estimation(energy, objective.log_z, x, y, objective.noise, loss)[0].mean()
    torch.testing.assert_close(told.value, value)
    assert told.grad_evals == 1500 and float(told.metrics["capped"]) == 0
    with torch.no_grad():
        objective.log_z.fill_(100.0 if loss in ("exponential", "inverse_kl") else -100.0)
    capped = {"exponential": 1 / 3, "mc_mle": 2 / 3, "lsif": 1.0, "inverse_kl": 1 / 3}[loss]
    assert float(objective(Batch(x)).metrics["capped"]) == pytest.approx(capped)
