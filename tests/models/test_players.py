"""Networks of a second player: what a generator draws, its joint density, a critic's start."""

import math

import pytest
import torch

from ebm_lab.models.players import NARROWEST, WIDEST, Critic, GeneratorNet
from tests.helpers import Points


def data(generator, wide=3.0):
    return Points(5 + wide * torch.randn(400, 2, generator=generator).double())


def test_a_linear_generator_draws_its_gaussian(generator):
    """x = m + W z + s e: covariance W W' + s^2 I, of 40,000 draws within 5 standard errors."""
    net = GeneratorNet(data(generator), generator, 3, [], 0.2)
    x = net.sample(40_000, generator)
    w, std = net.scale * net.net[0].weight.detach(), 0.2 * net.scale
    assert float(net.std().detach()) == pytest.approx(std)
    exact = w @ w.T + std**2 * torch.eye(2).double()
    assert float((x.T.cov() - exact).abs().max()) < 5 * 1.5 * float(exact.max()) / 200
    centre = net.mean + net.scale * net.net[0].bias.detach()
    assert float((x.mean(0) - centre).abs().max()) < 5 * float(exact.max()) ** 0.5 / 200


def test_the_joint_density_is_that_of_both_normals_but_for_2_pi(generator):
    net = GeneratorNet(data(generator), generator, 3, [8], 0.2)
    x, z = torch.randn(5, 2, generator=generator).double(), torch.randn(4, 5, 3, generator=generator).double()
    found, std = net.log_joint(x, z).detach(), float(net.std().detach())
    likelihood = torch.distributions.Normal(net(z).detach(), std).log_prob(x).sum(-1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(found, likelihood + prior + 2.5 * math.log(2 * math.pi), rtol=1e-6, atol=1e-6)


def test_the_std_stays_in_its_range(generator):
    net = GeneratorNet(data(generator), generator, 2, [], 0.2)
    for value, end in ((-20.0, NARROWEST), (20.0, WIDEST)):
        with torch.no_grad():
            net.log_std.fill_(value)
        assert float(net.std().detach()) == pytest.approx(end * net.scale)


def test_the_std_can_leave_the_ends_of_its_range_inwards_alone(generator):
    """The gradient of +-std in log std, which a clamp would make 0 at the ends and beyond; within, that of exp."""
    net = GeneratorNet(data(generator), generator, 2, [], 0.2)
    for at, outwards in ((NARROWEST / 2, 1), (NARROWEST, 1), (0.2, 0), (WIDEST, -1), (2 * WIDEST, -1)):
        for sign in (1, -1):
            with torch.no_grad():
                net.log_std.fill_(math.log(at))
            (slope,) = torch.autograd.grad(sign * net.std(), [net.log_std])
            held = min(max(at, NARROWEST), WIDEST) * net.scale
            assert float(slope) == pytest.approx(0 if sign == outwards else sign * held, rel=1e-5)


def test_weights_depend_on_the_stream_alone_and_a_critic_begins_at_zero(generator):
    points = data(generator)
    first, again, other = (Critic(points, torch.Generator().manual_seed(s), [8], 2) for s in (1, 1, 2))
    assert torch.equal(first.net[0].weight, again.net[0].weight)
    assert not torch.equal(first.net[0].weight, other.net[0].weight)
    assert float(first(points.train).detach().abs().max()) == 0
