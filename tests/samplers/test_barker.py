"""The Barker proposal: its density, detailed balance and acceptance by quadrature, and its robustness."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.samplers.barker import Barker, barker_log_ratio, barker_move
from ebm_lab.samplers.mala import MALA
from tests.samplers.test_metropolis import moment, quartic, quartic_draws

GRID = torch.linspace(-8, 8, 1601, dtype=torch.float64)
FIXED = {"target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity", "warmup": None}


def two_modes(x):
    """-log(0.3 N(-1.5, 0.7^2) + 0.7 N(1, 0.9^2))."""
    parts = [math.log(w / s) - ((x[:, 0] - m) / s) ** 2 / 2 for w, m, s in ((0.3, -1.5, 0.7), (0.7, 1.0, 0.9))]
    return 0.5 * math.log(2 * math.pi) - torch.logaddexp(*parts)


def chances(sigma):
    """p(x) q(x' | x) and log ratio of the moves between any two points of the grid, (n, n)."""
    n = len(GRID)
    e, grad = energy_and_grad(two_modes, GRID[:, None])
    old, new = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    log_ratio = barker_log_ratio(e[old], grad[old], GRID[old, None], e[new], grad[new], GRID[new, None]).view(n, n)
    d = GRID - GRID[:, None]
    q = 2 * torch.exp(-((d / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi)) * torch.sigmoid(-d * grad)
    return torch.exp(-e)[:, None] * q, log_ratio


def test_detailed_balance_and_mean_acceptance_on_a_grid():
    """p(x) q(x' | x) a(x -> x') is symmetric, q integrates to 1 where the grid does not cut it, and the mean acceptance
    at sigma = 1 is 0.8929."""
    flow, log_ratio = chances(1.0)
    step = float(GRID[1] - GRID[0])
    accepted = flow * log_ratio.clamp_max(0).exp()
    assert float((accepted - accepted.T).abs().max()) < 1e-15
    assert float((flow - flow.T).abs().max()) > 1e-3, "without the test it would not be"
    assert float(flow.sum() * step**2) == pytest.approx(1, abs=1e-6)
    assert float(accepted.sum() * step**2) == pytest.approx(0.8929, abs=5e-5)


def test_the_move_has_the_density_of_which_the_ratio_is_made(generator):
    """A coordinate goes up with probability E sigmoid(|z| s), of which 100,000 moves from one point are 4 standard
    errors or less away; the size of the move is |z|."""
    n, sigma, slope = 100_000, 0.8, 1.7
    x, grad = torch.zeros(n, 1).double(), torch.full((n, 1), slope).double()
    z, u = sigma * torch.randn(n, 1, generator=generator).double(), torch.rand(n, 1, generator=generator).double()
    moved = barker_move(x, grad, z, u)
    assert torch.equal(moved.abs(), z.abs())
    density = 2 * torch.exp(-((GRID / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    up = float((density * torch.sigmoid(-GRID * slope))[GRID > 0].sum() * (GRID[1] - GRID[0]))
    assert abs(float((moved > 0).double().mean()) - up) < 4 * (up * (1 - up) / n) ** 0.5 and up < 0.35


@pytest.mark.parametrize("eps", [0.5, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_stationary_law_is_exact_at_any_step_size(eps, temperature, generator):
    """Chains that begin at the law stay there: moments of a quartic energy on (1, 2, 2)-shaped states within 4 standard
    errors."""
    sampler = Barker(1.0, steps=20, step_size=eps, **{**FIXED, "temperature": temperature})
    x = quartic_draws(8000 * 4, temperature, generator).view(8000, 1, 2, 2)
    for _ in range(4):
        x = sampler(quartic, x, {}, generator=generator).x
    for power in (2, 4):
        values = (x.flatten(1) ** power).mean(1)
        assert abs(float(values.mean()) - moment(power, temperature)) < 4 * float(values.std()) / len(values) ** 0.5


def test_it_still_moves_where_mala_stands_still(generator):
    """A step size ten times the std of the narrowest of ten coordinates: MALA accepts less than 1 %, Barker ten times
    as much."""
    var = torch.cat([torch.full((1,), 0.01), torch.ones(9)]).double()
    energy = lambda x: 0.5 * (x.square() / var).sum(1)  # noqa: E731
    x = torch.randn(2000, 10, generator=generator).double() * var.sqrt()
    found = {}
    for make in (MALA, Barker):
        chain = make(1.0, steps=20, step_size=1.0, **FIXED)(energy, x, {}, generator=generator)
        found[make] = float(chain.metrics["acceptance"])
    assert found[MALA] < 0.01 and found[Barker] > 10 * found[MALA]


@pytest.mark.parametrize("eps", [0.01, 5.0])
def test_the_step_size_finds_its_target(eps, generator):
    settings = {**FIXED, "target_acceptance": 0.4, "adapt_rate": 0.1}
    sampler, x, state = (
        Barker(1.0, steps=20, step_size=eps, **settings),
        torch.randn(500, 5, generator=generator).double(),
        {},
    )
    for _ in range(20):
        x, state, metrics, evals = sampler(quartic, x, state, generator=generator)
    assert float(metrics["acceptance"]) == pytest.approx(0.4, abs=0.05) and evals == 21 * 500


def test_it_cannot_be_differentiated_through(generator):
    with pytest.raises(UserError, match="Barker has no differentiable moves; choose sampler=langevin or underdamped"):
        Barker(1.0, steps=1, step_size=0.1, **FIXED)(
            quartic, torch.zeros(2, 1), {}, generator=generator, differentiable=True
        )
