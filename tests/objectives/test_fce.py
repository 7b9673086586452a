"""Flow-contrastive estimation: its value, the identity with noise-contrastive estimation, what each player follows."""

import math

import pytest
import torch

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.interfaces import Batch, Turn
from ebm_lab.core.registry import build
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.objectives.fce import flow_contrast
from ebm_lab.objectives.nce import noise_contrastive_estimation
from tests.helpers import Points, gaussian_energy


def grid(reach=14.0, n=40_001):
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    return x.view(-1, 1), float(x[1] - x[0])


def mixture(x):
    """.3 N(-1.5, .7^2) + .7 N(1, .9^2)."""
    parts = [(0.3, -1.5, 0.7), (0.7, 1.0, 0.9)]
    logs = [
        math.log(w) - 0.5 * ((x[:, 0] - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi) for w, m, s in parts
    ]
    return torch.logaddexp(*logs)


def wide():
    return IsotropicGaussian(torch.zeros(1).double(), 2.0)


def value(energy, log_z, flow):
    """V by quadrature, for data of the mixture."""
    x, cell = grid()
    _, h, _ = flow_contrast(energy, log_z, x, x, flow)
    p, q = mixture(x).exp(), flow.log_prob(x).exp()
    return (p * torch.nn.functional.logsigmoid(h) + q * torch.nn.functional.logsigmoid(-h)).sum() * cell


def test_at_the_energy_s_optimum_the_value_is_twice_the_jensen_shannon_divergence_minus_2_log_2():
    x, cell = grid()
    log_p, log_q = mixture(x), wide().log_prob(x)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    js = 0.5 * float((log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum() * cell)
    at_best = float(value(lambda y: 3 - mixture(y), torch.tensor(-3.0).double(), wide()))
    assert at_best == pytest.approx(2 * js - 2 * math.log(2), abs=1e-9) and at_best == pytest.approx(
        -1.2907615, abs=1e-7
    )
    for off in (-0.2, 0.2):
        assert float(value(lambda y: 3 - mixture(y), torch.tensor(-3.0 + off).double(), wide())) < at_best
        assert float(value(lambda y: 3 - mixture(y) + off * y[:, 0], torch.tensor(-3.0).double(), wide())) < at_best  # noqa: B023


def objective(generator, x=None, **more):
    data = Points(torch.randn(400, 2, generator=generator) if x is None else x)
    values = compose_config(["objective=fce", "dataset=two_moons"])["objective"] | {"fit_steps": 5, **more}
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()).float()
    return build("objective", values, energy=energy, dataset=data, generator=generator), data


def test_with_the_flow_frozen_it_is_noise_contrastive_estimation_with_one_noise_point(generator):
    """Value and gradient, in the energy and in log Z, of the energy's turn against the equation of `nce`."""
    fce, data = objective(generator)
    state = generator.get_state()
    loss = fce(Batch(data.train), Turn(("energy",)))
    loss.value.backward()
    mine = [p.grad.clone() for p in fce.players()["energy"] if p.grad is not None]
    assert all(p.grad is None for p in fce.players()["flow"])
    fce.zero_grad()
    noise = fce.flow.sample(400, generator.set_state(state))
    values, h, h_noise = noise_contrastive_estimation(fce.energy, fce.log_z, data.train, noise, fce.flow)
    values.mean().backward()
    theirs = [p.grad for p in fce.players()["energy"] if p.grad is not None]
    assert float(loss.value.detach()) == pytest.approx(float(values.detach().mean()), rel=1e-5)
    assert len(mine) == len(theirs) == 3
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    right = 0.5 * ((h > 0).float().mean() + (h_noise < 0).float().mean())
    assert float(loss.metrics["accuracy"]) == pytest.approx(float(right))
    assert loss.grad_evals == 800 and fce.learnt_log_z() is fce.log_z and fce.origin() is fce.flow


def test_the_flow_descends_the_jensen_shannon_divergence(generator):
    """At an energy at its optimum, p known: the gradient of V in a flow N(m, s^2) is that of 2 JS(p, q), through the
    samples and the density; by quadrature over z, whose weights stand for draws."""
    m, log_s = (torch.tensor(v).double().requires_grad_(True) for v in (0.4, 0.3))

    class Line:
        def log_prob(self, x):
            return -0.5 * ((x[:, 0] - m) / log_s.exp()) ** 2 - log_s - 0.5 * math.log(2 * math.pi)

    z, cell = grid(9.0, 20_001)
    phi = torch.exp(-0.5 * z[:, 0] ** 2) / math.sqrt(2 * math.pi) * cell
    x, wider = grid()
    p = mixture(x).exp() * wider
    _, h, _ = flow_contrast(lambda y: -mixture(y), torch.zeros(()).double(), x, x, Line())
    _, _, h_flow = flow_contrast(lambda y: -mixture(y), torch.zeros(()).double(), z, m + log_s.exp() * z, Line())
    v = (p * torch.nn.functional.logsigmoid(h)).sum() + (phi * torch.nn.functional.logsigmoid(-h_flow)).sum()
    mine = torch.autograd.grad(v, (m, log_s))
    log_p, log_q = mixture(x), Line().log_prob(x)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    js2 = ((log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)) * wider).sum()
    exact = torch.autograd.grad(js2, (m, log_s))
    for a, b in zip(mine, exact, strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-8) and abs(float(b)) > 0.01


def test_each_turn_moves_its_player_and_both_losses_sum(generator):
    fce, data = objective(generator, energy_steps=2)
    assert [fce.turn(s).movers[0] for s in range(1, 7)] == 2 * ["energy", "energy", "flow"]
    loss = fce(Batch(data.train), Turn(("flow",)))
    loss.value.backward()
    assert all(p.grad is None for p in fce.players()["energy"]) and set(loss.metrics) == {"loss_flow"}
    assert any(float(p.grad.abs().max()) > 0 for p in fce.players()["flow"])
    both = fce(Batch(data.train))
    assert float(both.value.detach()) == pytest.approx(
        float(both.metrics["loss"] + both.metrics["loss_flow"]), abs=1e-6
    )
    assert both.grad_evals == 1600


def test_the_flow_s_turn_follows_the_value_through_its_samples(generator):
    """The flow's gradient is that of +V with draws that depend on the flow, the same draws."""
    fce, data = objective(generator)
    state = generator.get_state()
    fce(Batch(data.train), Turn(("flow",))).value.backward()
    mine = [p.grad.clone() for p in fce.players()["flow"] if p.grad is not None]
    fce.zero_grad()
    x_flow = fce.flow.rsample(400, generator.set_state(state))
    flow_contrast(fce.energy, fce.log_z.detach(), data.train, x_flow, fce.flow)[0].mean().backward()
    theirs = [p.grad for p in fce.players()["flow"] if p.grad is not None]
    assert len(mine) == len(theirs) > 0
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_flow_begins_at_the_likelihood_and_log_z_at_its_value_under_the_flow(generator):
    """E = |x|^2 / 2 on a standard normal: log Z = log 2 pi, from 4,096 points of a flow close to it."""
    x = torch.randn(4000, 2, generator=generator)
    fce, _ = objective(generator, x, fit_steps=150)
    assert "fitted in" in fce.notes[0]
    normal = IsotropicGaussian(torch.zeros(2), 1.0)
    assert float((normal.log_prob(x) - fce.flow.log_prob(x)).mean().detach()) < 0.1
    assert float(fce.log_z.detach()) == pytest.approx(math.log(2 * math.pi), abs=0.1)


def test_noise_on_the_data_is_in_units_of_their_scale(generator):
    fce, data = objective(generator, 30 * torch.randn(300, 2, generator=generator), data_noise=0.3)
    assert fce.data_noise == pytest.approx(0.3 * data.scale)
