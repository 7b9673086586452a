"""Training on a generator's samples: the score of its law, its entropy's gradient, the game's end, turns."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.derived import Tempered
from ebm_lab.core.interfaces import Batch, Turn
from ebm_lab.core.registry import build
from ebm_lab.distributions.base import base_of
from ebm_lab.objectives.vera import entropy_surrogate, generator_score, log_density
from ebm_lab.runs.assemble import assemble
from tests.helpers import Points, exact_sample, gaussian_energy


def vera(generator, x=None, a=None, **more):
    """The objective for data x, of two dimensions by default, with E = a |x|^2 / 2, in float64."""
    x = torch.randn(400, 2, generator=generator).double() if x is None else x
    d = x.shape[1]
    values = compose_config(["objective=vera", "dataset=two_moons"])["objective"]
    values |= {"hidden": [], "latent": d, "reweight": False, **more}
    energy = gaussian_energy(torch.zeros(d).double(), (a or 1.0) * torch.eye(d).double())
    return build("objective", values, energy=energy, dataset=Points(x), generator=generator).double()


def linear(generator, w, std, s=1.7, **more):
    """One dimension, data of variance s and scale sqrt(s): x = w z + std e."""
    x = exact_sample(torch.zeros(1).double(), s * torch.eye(1).double(), 400, generator)
    made = vera(generator, x, **more)
    with torch.no_grad():
        made.net.net[0].weight.fill_(w / made.net.scale)
        made.net.net[0].bias.zero_()
        made.net.log_std.fill_(math.log(std / made.net.scale))
    return made


def normal_nodes(n):
    """n equally likely quantiles of N(0, 1)."""
    return math.sqrt(2) * torch.erfinv(2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1)


def test_the_score_of_a_linear_generator_is_that_of_its_gaussian(generator):
    """q = N(0, w^2 + s^2). The proposals are quantiles, about as wide as the posterior, and many: the weights' own bias
    and the nodes' error are below a per cent."""
    w, std = 1.0, 0.5
    made = linear(generator, w, std)
    z = torch.tensor([[-1.0], [0.2], [0.9]]).double()
    x = w * z + std * torch.tensor([[0.5], [-1.0], [1.2]]).double()
    e = normal_nodes(4001).view(-1, 1, 1).expand(-1, 3, 1)
    found = generator_score(made.net, x, z, torch.tensor([1.0]).double(), e)
    torch.testing.assert_close(found, -x / (w**2 + std**2), rtol=0.01, atol=1e-3)
    assert not found.requires_grad


def test_too_narrow_proposals_bias_the_score_towards_the_pull_of_the_known_latent(generator):
    """With eta -> 0 it is (g(z) - x) / s^2, the score given z."""
    made = linear(generator, 1.0, 0.5)
    z, x = torch.tensor([[0.3]]).double(), torch.tensor([[1.0]]).double()
    found = generator_score(made.net, x, z, torch.tensor([1e-6]).double(), normal_nodes(50).view(-1, 1, 1))
    assert float(found) == pytest.approx((0.3 - 1.0) / 0.25, rel=1e-4)


def test_the_entropy_s_gradient_in_the_slope_and_in_the_std(generator):
    """H = 1/2 log (w^2 + s^2) + const, at w = 1, s = .5: .8 and .4. By quadrature over z and e; a score whose weights
    alone are held fixed would give -1.598 in s."""
    w, std = 1.0, 0.5
    made = linear(generator, w, std)
    nodes = normal_nodes(60)
    z, e = (grid.reshape(-1, 1) for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    x = made.net(z) + made.net.std() * e
    score = generator_score(made.net, x.detach(), z, torch.tensor([1.0]).double(), normal_nodes(401).view(-1, 1, 1))
    entropy_surrogate(score, x).mean().backward()
    total = float(nodes.square().mean())  # the nodes' own variance, a little below 1
    scale = made.net.scale
    assert float(made.net.net[0].weight.grad) / scale == pytest.approx(0.8 * total, rel=0.02)
    by_std = float(made.net.log_std.grad) / std
    assert by_std == pytest.approx(0.4 * total, rel=0.02)


def test_the_proposals_learn_the_evidence_bound_s_width(generator):
    """The posterior of a linear generator has the precision 1 + w^2 / s^2. About the z that x came from, which is a
    draw from that posterior, the best width of the bound is that of the posterior: no gradient there."""
    w, std = 1.0, 0.5
    for factor in (1.0, 0.5, 2.0):
        made = linear(generator, w, std, proposals=100)
        eta = factor * (1 + (w / std) ** 2) ** -0.5
        with torch.no_grad():
            made.log_eta.fill_(math.log(eta))
        made(Batch(torch.zeros(4000, 1).double()), Turn(("net",))).value.backward()
        exact = factor**2 - 1
        assert float(made.log_eta.grad) == pytest.approx(exact, abs=0.03 * max(1, factor**2))


@pytest.mark.parametrize("weight, penalty, a", [(1.0, 0.0, 1 / 1.7), (1.0, 0.1, 0.531695), (0.5, 0.0, 0.5 / 1.7)])
def test_the_game_ends_at_the_data_s_law_up_to_the_penalty(weight, penalty, a, generator):
    """s (1 + 2 penalty a) = w / a for data N(0, s): with q = N(0, w / a) the energy's expected gradient vanishes, and
    with exp(-E / w) = q so does the generator's."""
    s = 1.7
    v = weight / a
    std = 0.6
    made = linear(generator, (v - std**2) ** 0.5, std, s, a=a, entropy=weight, penalty=1.0)
    net, made.penalty = made.net, penalty  # in data units
    nodes = normal_nodes(2000).view(-1, 1)
    nodes = nodes / nodes.square().mean().sqrt()
    with torch.no_grad():  # samples whose variance is exactly v
        net.draw = lambda n, generator: (v**0.5 * nodes, nodes)
    x = exact_sample(torch.zeros(1).double(), s * torch.eye(1).double(), 2000, generator)
    made(Batch(x), Turn(("energy",))).value.backward()
    assert float(made.energy.factor.grad.abs().max()) < 1e-5
    assert s * (1 + 2 * penalty * a) == pytest.approx(weight / a, abs=1e-5)


def test_the_generator_rests_at_the_tempered_law(generator):
    """E = a x^2 / 2, q = N(0, w_H / a): the generator's gradient, in w and in s, is 0; and not at q = N(0, 1 / a)."""
    a, weight, std, grads = 0.7, 0.5, 0.4, []
    for v in (weight / a, 1 / a):
        made = linear(generator, (v - std**2) ** 0.5, std, a=a, entropy=weight, penalty=0.0, proposals=400)
        with torch.no_grad():
            made.log_eta.fill_(0.0)
        made(Batch(torch.zeros(20_000, 1).double()), Turn(("net",))).value.backward()
        grads.append([float(p.grad) for p in (made.net.net[0].weight, made.net.log_std)])
    assert grads[0] == pytest.approx([0, 0], abs=0.03)  # 4 standard errors, and the weights' bias
    assert min(grads[1]) > 0.05


def test_the_density_of_a_linear_generator_is_that_of_its_gaussian(generator):
    """log N(x; 0, w^2 + s^2), by quantiles of z, whose error is far below a per cent within two std."""
    w, std = 1.0, 0.5
    made, x = linear(generator, w, std), torch.tensor([[-2.0], [0.3], [1.5]]).double()
    law = torch.distributions.Normal(0.0, (w**2 + std**2) ** 0.5)
    torch.testing.assert_close(
        log_density(made.net, x, normal_nodes(4001)[:, None]), law.log_prob(x)[:, 0], atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("w, std", [(1.0, 0.5), (0.1, 0.3)])
def test_reweighted_samples_stand_for_the_model_whatever_the_generator(w, std, generator):
    """E = a x^2 / 2 at the temperature T has the mean energy T / 2 and, for data N(0, s), the gap a s / 2 - T / 2; a
    generator that is too wide or too narrow does not change it, and without weights its own energy takes the place."""
    a, temperature, s, n = 0.7, 0.5, 1.7, 20_000
    x = exact_sample(torch.zeros(1).double(), s * torch.eye(1).double(), n, generator)
    gaps, shares = [], []
    for reweight in (True, False):
        made = linear(generator, w, std, s, a=a, entropy=temperature, penalty=0.0, reweight=reweight)
        loss = made(Batch(x), Turn(("energy",)))
        gaps.append(float(loss.metrics["gap"]))
        shares.append(float(loss.metrics.get("weights_ess", 1)))
    error = temperature * 0.5**0.5 / math.sqrt(shares[0] * n)  # E has the std T / sqrt(2)
    assert shares[0] > 0.2 and gaps[0] == pytest.approx(a * s / 2 - temperature / 2, abs=4 * error)
    own = 0.5 * a * (w**2 + std**2)
    assert gaps[1] == pytest.approx(a * s / 2 - own, abs=4 * own * (2 / n) ** 0.5)
    assert abs(own - temperature / 2) > 10 * error, "the generator is off"


def test_the_run_s_law_is_tempered_and_chains_begin_at_the_generator(generator):
    made = vera(generator, entropy=0.25)
    assert isinstance(made.model(), Tempered) and made.origin() is made.net
    x = torch.randn(5, 2, generator=generator).double()
    torch.testing.assert_close(made.model()(x), made.energy(x) / 0.25)


def test_a_run_at_entropy_one_ends_no_worse_than_its_base():
    """Its law is exp(-E) then, on the energy's base, which the run compares itself with; not so at another weight."""
    settings = ["objective=vera", "dataset=two_moons", "dataset.train=500", "energy.base=gaussian", "steps=2"]
    plain, tempered = (assemble(compose_config([*settings, f"objective.entropy={w}"]))[0].state for w in (1, 0.5))
    base = plain.objective.energy.base
    x = torch.randn(5, 2)
    torch.testing.assert_close(base_of(plain.objective.model()).log_prob(x), base.log_prob(x))
    assert plain.early_stopping.metric == "base_contrast"
    assert base_of(tempered.objective.model()) is None and tempered.early_stopping is None


def test_each_turn_has_its_loss_and_reaches_its_player(generator):
    made = vera(generator, hidden=[8], penalty=0.3)
    assert [made.turn(step).movers for step in (1, 2, 3, 4)] == 2 * [("net",), ("energy",)]
    x = torch.randn(50, 2, generator=generator).double()
    players = made.players()
    for mover, moves in (("net", "loss_net"), ("energy", "loss")):
        made.zero_grad()
        for name, parameters in players.items():
            for p in parameters:
                p.requires_grad_(name == mover)
        loss = made(Batch(x), Turn((mover,)))
        loss.value.backward()
        assert {n for n, ps in players.items() if any(p.grad is not None for p in ps)} == {mover}
        assert moves in loss.metrics and len({"loss", "loss_net"} & set(loss.metrics)) == 1
        assert loss.grad_evals == (50 if mover == "net" else 200)
        assert not any(value.requires_grad for value in loss.metrics.values())
        if mover == "net":
            assert float(loss.metrics["proposal_std"]) == pytest.approx(0.1), "the std at the beginning"
    grad = made.energy(x.requires_grad_(True)).sum()
    (grad,) = torch.autograd.grad(grad, x)
    extra = float(loss.metrics["loss"] - loss.metrics["gap"])
    assert extra == pytest.approx(0.3 * made.net.scale**2 * 0.5 * float(grad.square().sum(1).mean()))
