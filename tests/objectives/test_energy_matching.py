"""Energy matching against closed forms for V = a x^2 / 2 and Gaussian data."""

from itertools import permutations

import pytest
import torch
from torch import nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import features_of
from ebm_lab.core.interfaces import Batch
from ebm_lab.distributions.base import base_of
from ebm_lab.objectives.energy_matching import BOTH, FLOW, EnergyMatching, flow_matching, flow_weight, optimal_pairs
from ebm_lab.runs.checks import check_parts
from tests.helpers import Drift, Exact, Points
from tests.objectives.test_drl import nodes


class Bowl(nn.Module):
    """a |x|^2 / 2."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * self.a * x.square().flatten(1).sum(1)


def objective(energy, sampler, data, generator, **settings):
    given = {"warmup": 0.5, "path_noise": 0.1, "temperature": 0.15, "contrast": 2.0, "tau": 0.8, "transport": 4}
    given["from_data"] = 0.5
    return EnergyMatching(energy, sampler, data, generator, 10, **{**given, **settings})


def gaussian_points(generator, n=64, d=2, scale=1.0):
    x = torch.randn(n, d, generator=generator).double()
    return Points(scale * (x - x.mean(0)) / x.std(0))


@pytest.mark.parametrize("noise, best", [(0.1, -0.2603), (0.0, -0.2622)])
def test_the_best_static_potential_of_a_widening_gaussian_repels(noise, best):
    """N(0, 1) to N(0, 1.7), x_1 = sqrt(1.7) x_0: V'' = -c (1 + c/2) / (1 + c + c^2/3 + noise^2), c = sqrt(1.7) - 1; all
    averages by nodes that are exact for polynomials."""
    z, w = nodes(3)
    legendre, weights = torch.tensor([-(0.6**0.5), 0.0, 0.6**0.5]).double(), torch.tensor([5, 8, 5]).double() / 18
    x_0, u, t = (m.reshape(-1) for m in torch.meshgrid(z, z, 0.5 + 0.5 * legendre, indexing="ij"))
    mass = (w[:, None, None] * w[None, :, None] * weights).reshape(-1)
    for a, size in ((best, 1e-4), (best + 0.01, None)):
        energy = Bowl(a)
        losses = flow_matching(energy, x_0[:, None], 1.7**0.5 * x_0[:, None], t, noise * u[:, None])
        (slope,) = torch.autograd.grad((mass * losses).sum(), energy.a)
        assert abs(float(slope)) < 3e-4 if size else float(slope) > 0.01
    c = 1.7**0.5 - 1
    assert best == pytest.approx(-c * (1 + c / 2) / (1 + c + c * c / 3 + noise**2), abs=5e-5)


def test_the_loss_is_a_mean_over_coordinates(generator):
    x_0, x_1 = (torch.randn(6, 3, generator=generator).double() for _ in range(2))
    t, noise = torch.linspace(0, 1, 6, dtype=torch.float64), torch.full((6, 3), 0.1, dtype=torch.float64)
    where = (1 - t[:, None]) * x_0 + t[:, None] * x_1 + noise
    expected = (0.7 * where + x_1 - x_0).square().mean(1)
    torch.testing.assert_close(flow_matching(Bowl(0.7), x_0, x_1, t, noise).detach(), expected)


def test_pairs_have_the_least_cost_of_all_permutations(generator):
    x, y = (torch.randn(5, 2, generator=generator).double() for _ in range(2))
    best = min(permutations(range(5)), key=lambda p: float((x - y[list(p)]).square().sum()))
    assert optimal_pairs(x, y).tolist() == list(best)
    a, b = (torch.randn(50, 1, generator=generator).double() for _ in range(2))
    assert torch.equal(a[:, 0].argsort(), b[optimal_pairs(a, b), 0].argsort())  # on the line: in order


def test_the_flow_lets_go_after_tau():
    t = torch.tensor([0.0, 0.5, 0.8, 0.9, 1.0])
    torch.testing.assert_close(flow_weight(t, 0.8), torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0]))
    torch.testing.assert_close(flow_weight(t, 0.0), 1 - t)


def test_the_law_is_at_the_temperature_and_the_phases_follow_the_step(generator):
    made = objective(Bowl(0.6), Drift(), gaussian_points(generator), generator)
    x = torch.tensor([[1.0, 2.0]]).double()
    assert float(made.model()(x).detach()) == pytest.approx(0.3 * 5 / 0.15)
    assert [made.turn(step) for step in (1, 5, 6, 10)] == [FLOW, FLOW, BOTH, BOTH]
    assert "energy" in features_of(made.model())
    assert made.notes == ["energy_matching: the density that is measured and sampled is exp(-E / 0.15)"]


def test_a_base_of_the_energy_is_said_to_be_none_of_the_law(generator):
    energy = Bowl(0.6)
    energy.base = object()
    data = gaussian_points(generator)
    (_, said) = objective(energy, Drift(), data, generator).notes
    assert said.startswith("energy_matching: the energy's base is none of that density")
    at_one = objective(energy, Drift(), data, generator, temperature=1.0)
    assert len(at_one.notes) == 1 and base_of(at_one.model()) is energy.base


def test_half_of_the_chains_begin_at_data_and_half_where_the_flow_ends(generator):
    """Euler steps of x' = -a x from t = 0 to 1 multiply by (1 - a / 4)^4, whatever the scale of the data."""
    data = gaussian_points(generator, scale=100.0)
    square = data.scale**2
    made = objective(Bowl(0.6 / square), Drift(0.0), data, generator)
    x_0 = torch.randn(64, 2, generator=generator).double()
    chain = made.negatives(x_0, data.train)
    torch.testing.assert_close(chain.x[:32], data.train[:32])
    torch.testing.assert_close(chain.x[32:], x_0[32:] * (1 - 0.6 / 4) ** 4)
    assert chain.grad_evals == 4 * 32
    made = objective(Bowl(0.6 / square), Drift(0.0), data, generator, from_data=1.0)
    assert torch.equal(made.negatives(x_0, data.train).x, data.train)


def test_the_contrast_vanishes_at_minus_eps_log_p(generator):
    """Values with lambda = 3 and 1 differ by 2 (E(x_1) - E(x_neg)); its mean slope is 0 if the chains have the data's
    law, a = eps, and (1 - eps / a) for a law of variance eps / a, d = 2."""
    for a, slope in ((0.15, 0.0), (0.3, 1.0)):
        found = []
        for seed in range(20):
            values = []
            for weight in (3.0, 1.0):
                draws = torch.Generator().manual_seed(seed)
                data = gaussian_points(draws, 256)
                law = Exact(torch.zeros(2).double(), 0.15 / a * torch.eye(2).double())
                energy = Bowl(a)
                made = objective(energy, law, data, draws, contrast=weight)
                value = made(Batch(data.train), BOTH).value
                values.append(torch.autograd.grad(value, energy.a)[0])
            found.append(values[0] - values[1])
        found = torch.stack(found)
        assert abs(float(found.mean()) - 2 * slope * 0.5) < 4 * float(found.std()) / 20**0.5


def test_the_loss_does_not_depend_on_the_data_s_unit(generator):
    """V scales with the square of lengths: the run's energy is V / scale^2."""
    for turn in (FLOW, BOTH):
        values = []
        for scale in (1.0, 1000.0):
            data = gaussian_points(torch.Generator().manual_seed(1), scale=scale)
            made = objective(Bowl(0.5 / data.scale**2), Drift(0.0), data, torch.Generator().manual_seed(2))
            loss = made(Batch(data.train), turn)
            values.append(float(loss.value.detach()))
        assert values[0] == pytest.approx(values[1], rel=1e-6) and "loss" in loss.metrics
        assert not any(m.requires_grad for m in loss.metrics.values())
        assert loss.grad_evals == (2 * 64 if turn == FLOW else 4 * 32 + 4 * 64)


def test_a_batch_is_paired_as_a_whole(generator):
    made = objective(Bowl(0.5), Drift(), gaussian_points(generator), generator)
    with pytest.raises(UserError, match="accumulate=2: the batch can't be cut into parts, for optimal transport pairs"):
        check_parts(made, 64, 2, 1)
