"""MALA, HMC and the independence sampler: exact stationary laws, counted gradients, adaptation, any shape."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.mcmc import independence_step
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.samplers.hmc import HMC
from ebm_lab.samplers.mala import MALA
from tests.helpers import covariance, gaussian_energy

FIXED = {"target_acceptance": None, "adapt_rate": 0.0, "mass": "identity", "warmup": None}


def mala(eps=0.8, steps=20, temperature=1.0, **adapt):
    return MALA(1.0, steps=steps, step_size=eps, temperature=temperature, **{**FIXED, **adapt})


def hmc(eps=0.5, steps=5, temperature=1.0, **adapt):
    return HMC(1.0, steps=steps, leapfrog=4, step_size=eps, temperature=temperature, **{**FIXED, **adapt})


def quartic(x):
    """E = sum x^4 / 4 + x^2 / 2 over all coordinates: no Gaussian, so a wrong ratio shows in its moments."""
    flat = x.flatten(1)
    return (flat**4 / 4 + flat**2 / 2).sum(1)


def moment(power, temperature=1.0):
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    p = torch.exp(-(x**4 / 4 + x**2 / 2) / temperature)
    return float((p * x**power).sum() / p.sum())


def quartic_draws(n, temperature, generator):
    """Exact draws from one coordinate's law, by inverting its distribution function."""
    x = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    cdf = torch.exp(-(x**4 / 4 + x**2 / 2) / temperature).cumsum(0)
    return x[torch.searchsorted(cdf / cdf[-1], torch.rand(n, generator=generator, dtype=torch.float64))]


@pytest.mark.parametrize("make", [mala, hmc], ids=["mala", "hmc"])
@pytest.mark.parametrize("eps", [0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_stationary_law_is_exact_at_any_step_size(make, eps, temperature, generator):
    """Chains that begin at the law stay there: second and fourth moments of a quartic energy on (2, 2)-shaped states
    within 4 standard errors (Langevin at eps = 1 misses the second moment by over 10 %)."""
    sampler = make(eps, temperature=temperature)
    x = quartic_draws(8000 * 4, temperature, generator).view(8000, 1, 2, 2)
    for _ in range(4):
        x = sampler(quartic, x, {}, generator=generator).x
    for power in (2, 4):
        values = (x.flatten(1) ** power).mean(1)
        error = abs(float(values.mean()) - moment(power, temperature))
        assert error < 4 * float(values.std()) / len(values) ** 0.5


@pytest.mark.parametrize("make", [mala, hmc], ids=["mala", "hmc"])
def test_covariance_of_a_correlated_gaussian(make, generator):
    energy = gaussian_energy(torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.0, 0.8], [0.8, 2.0]]).double())
    sampler, x = make(0.7), torch.zeros(10_000, 2).double()
    for _ in range(4):
        x = sampler(energy, x, {}, generator=generator).x
    torch.testing.assert_close(x.T.cov(), torch.linalg.inv(energy.precision.detach()), atol=0.08, rtol=0)
    torch.testing.assert_close(x.mean(0), energy.mean.detach(), atol=0.06, rtol=0)


def test_independence_metropolis_is_exact(generator):
    """A two-mode target that local moves never cross gets its weights, 0.2 and 0.8, right within 4 standard errors."""

    def energy(x):
        a, b = -((x[:, 0] + 4) ** 2) / 2 + math.log(0.2), -((x[:, 0] - 4) ** 2) / 2 + math.log(0.8)
        return -torch.logsumexp(torch.stack([a, b]), 0)

    proposal = IsotropicGaussian(torch.full((1,), 2.0).double(), 5.0)  # likelier at one mode, so its density counts
    x, accepted = torch.zeros(10_000, 1).double() - 4, []
    for _ in range(60):
        x, yes = independence_step(energy, x, proposal, generator)
        accepted.append(yes.double().mean())
    assert abs(float((x > 0).double().mean()) - 0.8) < 4 * (0.16 / 10_000) ** 0.5
    assert float(x[x > 0].var()) == pytest.approx(1.0, abs=0.07) and 0.05 < float(accepted[-1]) < 0.6


class Counting(nn.Module):
    """Counts calls; a parameter and dropout to see that sampling freezes them."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop, self.calls, self.seen = nn.Linear(3, 1), nn.Dropout(0.5), 0, set()

    def forward(self, x):
        self.calls += 1
        self.seen.add((self.training, self.layer.weight.requires_grad))
        return self.drop(self.layer(x)).squeeze(1) + x.square().sum(1)


def test_hmc_takes_11_gradients_for_10_leapfrogs_and_carries_them(generator):
    net = Counting()
    sampler = HMC(1.0, steps=1, leapfrog=10, step_size=0.1, temperature=1.0, **FIXED)
    out = sampler(net, torch.zeros(4, 3), {}, generator=generator)
    assert net.calls == 11 and out.grad_evals == 44 and net.seen == {(False, False)} and net.training
    net.calls = 0
    out = HMC(1.0, steps=3, leapfrog=10, step_size=0.1, temperature=1.0, **FIXED)(
        net, torch.zeros(4, 3), {}, generator=generator
    )
    assert net.calls == 31 and out.grad_evals == 31 * 4


def test_mala_takes_k_plus_1_gradients(generator):
    net = Counting()
    out = mala(0.1, steps=10)(net, torch.zeros(4, 3), {}, generator=generator)
    assert net.calls == 11 and out.grad_evals == 44 and net.seen == {(False, False)}


@pytest.mark.parametrize("make, target", [(mala, 0.6), (hmc, 0.8)], ids=["mala", "hmc"])
@pytest.mark.parametrize("eps", [0.01, 5.0])
def test_the_step_size_finds_its_target_and_is_handed_on(make, target, eps, generator):
    sampler = make(eps, steps=20, target_acceptance=target, adapt_rate=0.1)
    energy = gaussian_energy(torch.zeros(5).double(), covariance(5, generator))
    x, state = torch.randn(500, 5, generator=generator).double(), {}
    for _ in range(20):
        x, state, metrics, _ = sampler(energy, x, state, generator=generator)
    assert float(metrics["acceptance"]) == pytest.approx(target, abs=0.05)
    assert float(state["log_eps"].exp()) == pytest.approx(float(metrics["step_size"]))
    assert make(0.3)(energy, x, {}, generator=generator).state["log_eps"].exp() == pytest.approx(0.3)


@pytest.mark.parametrize("make", [mala, hmc], ids=["mala", "hmc"])
def test_a_proposal_of_nan_energy_is_refused(make, generator):
    """An energy that breaks beyond |x| = 1 keeps its chains inside, all finite."""

    def broken(x):
        return torch.where(x.abs() > 1, math.nan, x**2).sum(1)

    out = make(0.8, target_acceptance=0.6, adapt_rate=0.1)(broken, torch.zeros(100, 1), {}, generator=generator)
    assert out.x.isfinite().all() and out.x.abs().max() <= 1
    assert out.state["log_eps"].isfinite(), "nan counts as a refusal"


@pytest.mark.parametrize("make", [mala, hmc], ids=["mala", "hmc"])
def test_differentiable_chains_reach_the_energy_s_parameters(make, generator):
    """d/da of the final state of one accepted tiny step agrees with a finite difference."""

    def end(a):
        own = torch.Generator().manual_seed(5)
        energy = lambda x: 0.5 * a * x.square().sum(1)  # noqa: E731
        return make(0.2, steps=2)(
            energy, torch.full((3, 2), 1.5).double(), {}, generator=own, differentiable=True
        ).x.sum()

    a = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(end(a), a)
    with torch.no_grad():
        difference = (end(a + 1e-5) - end(a - 1e-5)) / 2e-5
    assert float(grad) == pytest.approx(float(difference), rel=1e-4) and abs(float(grad)) > 1e-3


@pytest.mark.parametrize("sampler", [MALA, HMC], ids=["mala", "hmc"])
def test_the_step_is_relative_to_the_data_s_scale(sampler, generator):
    more = {"leapfrog": 3} if sampler is HMC else {}
    made = sampler(2.5, steps=1, step_size=0.3, temperature=1.0, **FIXED, **more)
    out = made(quartic, torch.zeros(4, 2), {}, generator=generator)
    assert float(out.metrics["step_size"]) == pytest.approx(0.75)


def test_mala_s_proposal_is_the_tempered_langevin_step():
    """x' = x - (eps^2 / 2) grad E / T + eps z with the generator's own z, where the small step is accepted; another
    drift would stay exact, and be slower."""
    x, temperature, eps = torch.linspace(1, 2, 10).view(5, 2).double(), 0.25, 0.05
    out = mala(eps, steps=1, temperature=temperature)(quartic, x, {}, generator=torch.Generator().manual_seed(3))
    z = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(3))
    accepted = (out.x != x).all(1)
    assert int(accepted.sum()) >= 3
    torch.testing.assert_close(out.x[accepted], (x - eps**2 / 2 * (x**3 + x) / temperature + eps * z)[accepted])


def test_hmc_s_force_is_that_of_the_tempered_energy(generator):
    """Leapfrog conserves H = E / T + |v|^2 / 2 up to O(h^2), so small steps are nearly all accepted: 20 of size 0.02
    go far enough that the force at T = 1 would change H by more than 1."""
    sampler = HMC(1.0, steps=5, leapfrog=20, step_size=0.02, temperature=0.25, **FIXED)
    out = sampler(quartic, torch.full((500, 4), 1.5).double(), {}, generator=generator)
    assert float(out.metrics["acceptance"]) > 0.99
