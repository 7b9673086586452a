"""Training by f-divergences: the divergences' functions, their gradients by quadrature, the critic, the chains."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import evaluate
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.registry import build
from ebm_lab.objectives.f_ebm import conjugate, covariance, slope
from tests.helpers import Exact, Points, gaussian_energy

F = {
    "kl": lambda r: r * r.log(),
    "reverse_kl": lambda r: -r.log(),
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: (r.sqrt() - 1) ** 2,
    "chi2": lambda r: (r - 1) ** 2,
}
"""The divergences' f, written out once more."""
KNOWN = {
    "kl": (0.374487, (-1.017319, 1.251425, -0.598078)),
    "reverse_kl": (0.635102, (-3.412731, 2.201518, -1.471465)),
    "js": (0.193217, (-0.575479, 0.596393, -0.315256)),
    "hellinger": (0.211131, (-0.705350, 0.672053, -0.369415)),
    "chi2": (0.808407, (-2.071217, 3.394390, -1.381835)),
}
"""D_f and its gradient for the mixture below and E = a x^2 / 2 + b x + c log cosh(x - .3) at (.6, .2, -.8)."""
THETA = torch.tensor([0.6, 0.2, -0.8]).double()
X = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
CELL = float(X[1] - X[0])


def data_log_prob(x):
    """.3 N(-1.5, .7^2) + .7 N(1, .9^2)."""
    parts = [(0.3, -1.5, 0.7), (0.7, 1.0, 0.9)]
    logs = [math.log(w) - 0.5 * ((x - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi) for w, m, s in parts]
    return torch.logaddexp(*logs)


def features(x):
    """grad_theta E."""
    return torch.stack([x**2 / 2, x, torch.log(torch.cosh(x - 0.3))])


def model_log_prob(theta):
    e = theta @ features(X)
    return -e - torch.logsumexp(-e, 0) - math.log(CELL)


def exact(name, theta):
    log_q = model_log_prob(theta)
    return float((log_q.exp() * F[name]((data_log_prob(X) - log_q).exp())).sum() * CELL)


@pytest.mark.parametrize("name", KNOWN)
def test_the_gradient_is_the_covariance_of_the_conjugate_with_the_energy_s_gradient(name):
    """By quadrature, against finite differences of D_f and its known values."""
    value, gradient = KNOWN[name]
    q, h = model_log_prob(THETA).exp() * CELL, data_log_prob(X) - model_log_prob(THETA)
    c, t = conjugate(name, h), features(X)
    found = (q * (c - (q * c).sum()) * t).sum(1)
    step = 1e-4 * torch.eye(3).double()
    differences = [(exact(name, THETA + e) - exact(name, THETA - e)) / 2e-4 for e in step]
    assert found.tolist() == pytest.approx(differences, abs=1e-6)
    assert found.tolist() == pytest.approx(gradient, abs=2e-6) and exact(name, THETA) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_the_critic_s_best_value_is_the_divergence_at_the_log_ratio(name):
    log_q = model_log_prob(THETA)
    p, q, h = data_log_prob(X).exp() * CELL, log_q.exp() * CELL, data_log_prob(X) - log_q

    def value(h):
        return float((p * slope(name, h)).sum() - (q * conjugate(name, h)).sum())

    assert value(h) == pytest.approx(KNOWN[name][0], abs=2e-6)
    for off in (0.1, -0.1, 0.1 * torch.sin(X), -0.1 * torch.sin(X)):
        assert value(h + off) < value(h) - 1e-4


@pytest.mark.parametrize("name", KNOWN)
def test_slope_and_conjugate_belong_to_one_f(name):
    """f' by automatic differentiation, and r f' - f."""
    h = torch.linspace(-2, 2, 9).double()
    r = h.exp().requires_grad_(True)
    f = F[name](r)
    (rate,) = torch.autograd.grad(f.sum(), r)
    torch.testing.assert_close(slope(name, h), rate)
    torch.testing.assert_close(conjugate(name, h), (r * rate - f).detach())


def test_pairs_of_draws_estimate_a_covariance_without_bias(generator):
    """Over all ordered pairs of n values the mean is the unbiased sample covariance; a last odd value is left out."""
    a, b = torch.randn(2, 7, generator=generator).double()
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij"))
    distinct = i != j
    i, j = i[distinct], j[distinct]
    pairs = torch.stack([i, j], 1).flatten()
    assert float(covariance(a[pairs], b[pairs]).mean()) == pytest.approx(float(torch.stack([a, b]).cov()[0, 1]))
    assert covariance(a, b).shape == (3,)
    torch.testing.assert_close(covariance(a, b)[1], 0.5 * (a[2] - a[3]) * (b[2] - b[3]))


def objective(generator, sampler=None, x=None, energy=None, **more):
    x = torch.randn(400, 2, generator=generator).double() if x is None else x
    values = compose_config(["objective=f_ebm", "dataset=two_moons"])["objective"]
    values |= {"hidden": [8], "buffer_size": 400, "refresh": 0, "data_noise": 0.0, "adds_energy": False, **more}
    energy = energy or gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    sampler = sampler or Exact(torch.zeros(2).double(), torch.eye(2).double())
    wiring = {"energy": energy, "dataset": Points(x), "generator": generator, "sampler": sampler, "batch_size": 100}
    made = build("objective", values, **wiring)
    made.critic.double()
    return made


@pytest.mark.parametrize("adds_energy", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_losses_are_those_of_the_equations_and_each_reaches_its_player_alone(name, adds_energy, generator):
    made = objective(generator, divergence=name, adds_energy=adds_energy)
    with torch.no_grad():
        made.critic.net[-1].weight.normal_(generator=generator)
    x = torch.randn(100, 2, generator=generator).double()
    state = generator.get_state()
    loss = made(Batch(x))
    loss.value.backward()
    generator.set_state(state)
    slots = made.buffer.draw(100, generator)
    x_neg = made.buffer.x[slots]  # where the chains have ended
    h, h_neg = (made.learnt_critic().h(points) for points in (x, x_neg))
    found = slope(name, h).mean() - conjugate(name, h_neg).mean()
    cov = covariance(conjugate(name, h_neg).detach(), evaluate(made.energy, x_neg)).mean()
    assert float(loss.metrics["divergence"]) == pytest.approx(float(found.detach()))
    assert float(loss.metrics["loss_critic"]) == pytest.approx(-float(found.detach()))
    assert float(loss.metrics["loss"]) == pytest.approx(float(cov.detach()))
    gap = evaluate(made.energy, x).mean() - evaluate(made.energy, x_neg).mean()
    assert float(loss.metrics["gap"]) == pytest.approx(float(gap.detach()))
    assert loss.grad_evals == 100, "exact draws take no gradients"
    assert not any(value.requires_grad for value in loss.metrics.values())
    expected = torch.autograd.grad(cov, list(made.players()["energy"]))
    expected += torch.autograd.grad(-found, made.players()["critic"])
    for p, g in zip([p for ps in made.players().values() for p in ps], expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_the_ratio_is_bounded_smoothly(generator):
    made = objective(generator)
    made.critic = torch.nn.Identity()
    x = torch.tensor([[0.01], [100.0], [-100.0]]).double()
    assert made.h(x, 0 * x[:, 0]).tolist() == pytest.approx([0.01, 5.0, -5.0], abs=1e-6)


def test_a_critic_that_adds_the_energy_is_the_log_ratio_for_one_network_whatever_the_energy(generator):
    """Data N(0, 1.3^2 I), models N(m, I): with the network log p the critic is 5 tanh((log p + E + constant) / 5), and
    the energy counts as fixed in it."""
    log_p = lambda x: -0.5 * x.square().sum(1) / 1.69  # noqa: E731
    x = torch.randn(50, 2, generator=generator).double()
    for mean in (0.0, 0.7):
        energy = gaussian_energy(torch.full((2,), mean).double(), torch.eye(2).double())
        made = objective(generator, energy=energy, adds_energy=True)
        made.critic = torch.nn.Module()
        made.critic.forward = lambda x: log_p(x).unsqueeze(1)
        ratio = 5 * torch.atanh(made.learnt_critic().h(x) / 5) - log_p(x) - 0.5 * (x - mean).square().sum(1)
        assert float(ratio.std()) < 1e-6
        assert float(ratio.mean()) == pytest.approx(-0.5 * float((made.fixed - mean).square().sum(1).mean()))
        assert not made.h(x, evaluate(made.energy, x)).requires_grad


def test_chains_persist_and_a_small_buffer_is_refused(generator):
    made = objective(generator)
    before = made.buffer.x.clone()
    made(Batch(torch.zeros(100, 2).double()))
    assert int((before != made.buffer.x).any(1).sum()) == 100 and made.chains() is made.buffer.x
    with pytest.raises(UserError, match="objective.buffer_size=50: must be at least batch_size=100"):
        objective(generator, buffer_size=50)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, mean, std, adds_energy",
    [("kl", 1.01000, 1.83044, False), ("js", 1.31252, 1.75247, False), ("js", 1.31252, 1.75247, True)],
)
def test_a_gaussian_fitted_to_two_modes_comes_to_the_known_place(name, mean, std, adds_energy):
    """Data .33 N(-1, .25^2) + .67 N(2, 2), model N(mu, sigma^2) with exact chains: the minimisers of D_f over mu and
    sigma are known by quadrature, and tell the divergences apart."""
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    first = torch.rand(n, generator=generator) < 0.33
    z = torch.randn(n, generator=generator)
    x = torch.where(first, -1 + 0.25 * z, 2 + 2**0.5 * z).double().view(-1, 1)
    energy = gaussian_energy(torch.zeros(1).double(), torch.eye(1).double())
    sampler = Exact(torch.zeros(1).double(), torch.eye(1).double())
    made = objective(
        generator, sampler, x, energy, divergence=name, hidden=[32, 32], buffer_size=1000, adds_energy=adds_energy
    )
    steps = 1500
    optimisers = [
        torch.optim.Adam(p, lr=lr, betas=(0.0, 0.99))
        for p, lr in zip(made.players().values(), (0.01, 0.005), strict=True)
    ]
    places = []
    for step in range(steps):
        with torch.no_grad():
            sampler.mean = energy.mean.clone()
            sampler.factor = torch.linalg.cholesky(torch.linalg.inv(energy.factor @ energy.factor.T))
        batch = x[torch.randint(n, (1000,), generator=generator)]
        made.zero_grad()
        made(Batch(batch)).value.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.param_groups[0]["lr"] *= 0.998
        if step >= steps - 500:
            places.append([float(energy.mean.detach()), 1 / abs(float(energy.factor.detach()))])
    found = torch.tensor(places).mean(0).tolist()
    assert found == pytest.approx([mean, std], abs=0.08)
