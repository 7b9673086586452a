"""Cooperative training: the contraction without inference, the flat energy, and how inference of z avoids both."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.registry import build
from ebm_lab.objectives.coopnets import infer, latent_energy
from ebm_lab.samplers.langevin import Langevin
from tests.helpers import Exact, Points, exact_sample, gaussian_energy

N = 40_000


def coopnets(generator, w, std, sampler, a=1.0, s=1.7, **more):
    """One dimension: x = w z + std e, E = a x^2 / 2, N data of variance s exactly."""
    x = exact_sample(torch.zeros(1).double(), s * torch.eye(1).double(), N, generator)
    values = compose_config(["objective=coopnets", "dataset=two_moons"])["objective"]
    values |= {"hidden": [], "latent": 1, "std": std, "data_noise": 0.0, **more}
    energy = gaussian_energy(torch.zeros(1).double(), torch.eye(1).double())
    wiring = {"energy": energy, "dataset": Points(x), "generator": generator, "sampler": sampler}
    made = build("objective", values, **wiring).double()
    with torch.no_grad():
        energy.factor.fill_(a**0.5)
        made.net.net[0].weight.fill_(w / made.net.scale)
        made.net.net[0].bias.zero_()
        made.net.log_std.fill_(math.log(std / made.net.scale))
    return made, x


def langevin(steps, eps):
    return Langevin(1.0, steps=steps, step_size=eps, noise_scale=1.0, clip_grad=None)


def gradients(made, x):
    """(of w, of the precision's factor, of log s) after one pass over the data."""
    made.zero_grad()
    loss = made(Batch(x))
    loss.value.backward()
    w = float(made.net.net[0].weight.grad) / made.net.scale
    return w, float(made.energy.factor.grad), float(made.net.log_std.grad), loss


def test_without_inference_the_generator_contracts_by_a_known_factor(generator):
    """x~ = r^k (w z + s e) + noise, r = 1 - eps^2 a / 2: the regression of x~ on the known z has the slope r^k w, which
    is .263076 w at a = 1, eps = .5, k = 10. The gradient is (w - r^k w) / s^2; its standard error is x~'s std over
    s^2 sqrt N."""
    w, std, k, eps = 1.3, 0.2, 10, 0.5
    shrunk = (1 - eps**2 / 2) ** k
    assert shrunk == pytest.approx(0.263076, abs=1e-6)
    made, x = coopnets(generator, w, std, langevin(k, eps), inference_steps=0)
    grad = gradients(made, x)[0]
    assert grad * std**2 == pytest.approx(w - shrunk * w, abs=5 * 1.5 / N**0.5)


def test_without_inference_both_players_rest_at_a_flat_energy(generator):
    """a = 0 and w^2 + s^2 = (data's variance) - k eps^2: chains of pure noise end with the data's variance, so the
    energy has no gradient, and the generator none either, since nothing pulls."""
    s, k, eps, std = 1.7, 4, 0.5, 0.2
    w = (s - k * eps**2 - std**2) ** 0.5
    made, x = coopnets(generator, w, std, langevin(k, eps), a=1e-12, s=s, inference_steps=0)
    by_w, _, _, loss = gradients(made, x)
    assert abs(by_w) * std**2 < 5 * 1.1 / N**0.5
    e_neg = float(loss.metrics["e_neg"]) / 1e-12
    assert e_neg == pytest.approx(0.5 * s, abs=5 * s / (2 * N) ** 0.5)


def test_with_inference_the_generator_sees_that_the_chains_have_spread(generator):
    """There the inferred z's gradient is the marginal likelihood's, w (1 / V - S / V^2) with V = w^2 + s^2 and S the
    variance of the chains' ends: no rest."""
    s, k, eps, std = 1.7, 4, 0.5, 0.6
    w = (s - k * eps**2 - std**2) ** 0.5
    more = {"inference_steps": 60, "inference_size": 1.5}
    made, x = coopnets(generator, w, std, langevin(k, eps), a=1e-12, s=s, **more)
    v = w**2 + std**2
    exact = w * (1 / v - s / v**2)
    assert exact < -0.5
    by_w, _, _, loss = gradients(made, x)
    assert by_w == pytest.approx(exact, abs=0.06)  # 5 standard errors: w z z' / s^2 has a std of 2 or so
    assert 0.5 < float(loss.metrics["inference_acceptance"]) < 0.99


@pytest.mark.parametrize("std", [0.4, 0.8])
def test_with_inference_the_generator_rests_at_the_chains_law_for_every_std(std, generator):
    """w^2 + s^2 = 1 / (a (1 - eps^2 a / 4)), the stationary variance of Langevin steps: 1.066667 at a = 1, eps = .5."""
    a, eps = 1.0, 0.5
    v = 1 / (a * (1 - eps**2 * a / 4))
    assert v == pytest.approx(1.066667, abs=1e-6)
    made, x = coopnets(generator, (v - std**2) ** 0.5, std, langevin(3, eps), a)
    by_w, _, by_std, _ = gradients(made, x)
    error = 5 * 1.2 / std / N**0.5  # z (x - w z) / s^2 is z e / s
    assert abs(by_w) < error and abs(by_std) < 5 * (2 / N) ** 0.5
    wider, _ = coopnets(generator, (1.5 * v - std**2) ** 0.5, std, langevin(3, eps), a)
    assert gradients(wider, x)[0] > error


def test_inference_leaves_the_posterior_invariant_and_forgets_where_it_began(generator):
    """x = w z + s e: p(z | x) = N(m, t^2), t^-2 = 1 + w^2 / s^2, m = t^2 w x / s^2."""
    w, std, x = 1.2, 0.5, 0.9
    made, _ = coopnets(generator, w, std, langevin(1, 0.1))
    t = (1 + (w / std) ** 2) ** -0.5
    m = t**2 * w * x / std**2
    here = torch.full((20_000, 1), x).double()
    for start, steps in (("posterior", 3), ("far", 80)):
        z = m + t * torch.randn(20_000, 1, generator=generator).double() if start == "posterior" else here + 3
        z, accepted = infer(made.net, here, z, steps, 0.5, generator)
        assert float(z.mean()) == pytest.approx(m, abs=5 * t / 20_000**0.5)
        assert float(z.var()) == pytest.approx(t**2, abs=5 * t**2 * (2 / 20_000) ** 0.5)
        assert 0.3 < float(accepted) < 0.99 and not z.requires_grad
    assert all(p.requires_grad for p in made.net.parameters())


def test_the_energy_of_a_latent_is_the_joint_s(generator):
    made, _ = coopnets(generator, 1.2, 0.5, langevin(1, 0.1))
    x, z = torch.tensor([[0.9], [-2.0]]).double(), torch.tensor([[0.3], [1.0]]).double()
    exact = 0.5 * (z**2 + ((x - 1.2 * z) / 0.5) ** 2).squeeze(1) + math.log(0.5)
    torch.testing.assert_close(latent_energy(made.net, x, z).detach(), exact, rtol=1e-6, atol=1e-6)


def test_losses_reach_their_players_and_chains_begin_at_the_generator(generator):
    """With exact chains the energy's gradient is that of the likelihood: (s - 1 / a) a^(1/2) in the factor."""
    made, x = coopnets(generator, 1.0, 0.5, Exact(torch.zeros(1).double(), torch.eye(1).double()), inference_steps=1)
    loss = gradients(made, x)[3]
    total = float(loss.metrics["gap"] + loss.metrics["loss_net"])
    assert float(loss.value.detach()) == pytest.approx(total) and made.origin() is made.net
    assert float(made.energy.factor.grad) == pytest.approx(0.7, abs=5 * (2 / N) ** 0.5)
    own = {name: set(parameters) for name, parameters in made.players().items()}
    assert own["energy"] == set(made.energy.parameters()) and own["net"] == set(made.net.parameters())
    for name, value in (("energy", loss.metrics["gap"]), ("net", loss.metrics["loss_net"])):
        assert not value.requires_grad and own[name]
