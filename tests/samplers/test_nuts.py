"""NUTS: its exact law, one leapfrog at depth 1, U-turns of all subtrees, counted gradients, and dual averaging."""

import math

import pytest
import torch

from ebm_lab.core.functional import energy_and_grad
from ebm_lab.samplers._metropolis import Point
from ebm_lab.samplers.nuts import NUTS, State, grow, leapfrog, turned
from tests.helpers import covariance, gaussian_energy
from tests.samplers.test_metropolis import moment, quartic, quartic_draws


def nuts(eps=0.4, steps=4, depth=5, temperature=1.0, target=None, mass="identity", warmup=None):
    return NUTS(
        1.0,
        steps=steps,
        max_depth=depth,
        step_size=eps,
        target_acceptance=target,
        temperature=temperature,
        mass=mass,
        warmup=warmup,
    )


@pytest.mark.parametrize("eps, depth", [(0.3, 5), (0.7, 3), (1.0, 2)])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_stationary_law_is_exact_at_any_step_size(eps, depth, temperature, generator):
    """Chains that begin at the law stay there: second and fourth moments of a quartic energy on (1, 2, 2)-shaped states
    within 4 standard errors."""
    x = quartic_draws(8000 * 4, temperature, generator).view(8000, 1, 2, 2)
    for _ in range(2):
        x = nuts(eps, depth=depth, temperature=temperature)(quartic, x, {}, generator=generator).x
    for power in (2, 4):
        values = (x.flatten(1) ** power).mean(1)
        assert abs(float(values.mean()) - moment(power, temperature)) < 4 * float(values.std()) / len(values) ** 0.5


def test_chains_that_begin_where_there_is_no_density_come_in_and_have_the_law(generator):
    """E = |x|^2 / 2 within |x_i| < 1, +inf beyond, where half of the chains begin: after 60 trajectories fewer
    than one of fifty is outside, for it takes a step of the right length and direction; and the mean of x_i^2 of the
    others is that of the truncated normal, 1 - 2 phi(1) / (2 Phi(1) - 1), within 4 standard errors."""
    energy = lambda x: torch.where((x.abs() < 1).all(1), 0.5 * x.square().sum(1), torch.inf)  # noqa: E731
    x = nuts(0.5, steps=60)(
        energy, 3 * torch.rand(2000, 2, generator=generator).double() - 1.5, {}, generator=generator
    ).x
    inside = (x.abs() < 1).all(1)
    assert float((~inside).double().mean()) < 0.02
    square = x[inside].square().flatten()
    phi, mass = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erf(1 / math.sqrt(2))
    assert float(square.mean()) == pytest.approx(1 - 2 * phi / mass, abs=4 * float(square.std()) / len(square) ** 0.5)


def test_covariance_of_a_correlated_gaussian(generator):
    """2,000 chains from one point: after 25 trajectories each entry within 4 standard errors,
    sqrt((S_ii S_jj + S_ij^2) / n)."""
    cov, n = covariance(4, generator), 2000
    energy = gaussian_energy(torch.tensor([1.0, -2.0, 0.5, 0.0]).double(), torch.linalg.inv(cov))
    x = nuts(0.5, steps=25)(energy, torch.zeros(n, 4).double(), {}, generator=generator).x
    var = cov.diagonal()
    assert ((x.T.cov() - cov).abs() < 4 * ((torch.outer(var, var) + cov**2) / n).sqrt()).all()
    assert ((x.mean(0) - energy.mean.detach()).abs() < 4 * (var / n).sqrt()).all()


def test_at_depth_1_it_is_hmc_with_one_leapfrog_step_in_a_random_direction():
    x, eps = torch.randn(500, 3, generator=torch.Generator().manual_seed(1)).double(), 0.9
    out = nuts(eps, steps=1, depth=1)(quartic, x, {}, generator=torch.Generator().manual_seed(3))
    own = torch.Generator().manual_seed(3)
    v = torch.empty_like(x).normal_(generator=own)
    u = torch.empty(4, len(x)).double().uniform_(generator=own)
    h = eps * torch.where(u[0] < 0.5, 1.0, -1.0).double().view(-1, 1)
    e, grad = energy_and_grad(quartic, x)
    w = v - h / 2 * grad
    new = x + h * w
    e_new, grad_new = energy_and_grad(quartic, new)
    w = w - h / 2 * grad_new
    log_ratio = e - e_new + 0.5 * (v.square().sum(1) - w.square().sum(1))
    yes = u[1].log() < log_ratio
    torch.testing.assert_close(out.x, torch.where(yes.view(-1, 1), new, x))
    assert 0.3 < float(yes.double().mean()) < 0.95
    assert float(out.metrics["acceptance"]) == pytest.approx(float(log_ratio.clamp_max(0).exp().mean()))


def test_a_half_is_whole_unless_one_of_its_binary_subtrees_turns():
    """For 400 trajectories of 8 states on an oscillator: against all pairs of states, and drawn in proportion to the
    weights."""
    at = lambda x: Point(x, quartic(x), energy_and_grad(quartic, x)[1])  # noqa: E731
    own = torch.Generator().manual_seed(0)
    x, v = torch.randn(400, 2, generator=own).double(), torch.randn(400, 2, generator=own).double()
    eps, sign = torch.tensor(0.25).double(), torch.where(torch.rand(400, generator=own) < 0.5, 1.0, -1.0).double()
    edge, h0 = State(at(x), v), quartic(x) + 0.5 * v.square().sum(1)
    u = torch.rand(8, 400, generator=own).double()
    half = grow(at, edge, h0, eps, sign, torch.ones(400, dtype=torch.bool), u)
    states = []
    for _ in range(8):
        edge = leapfrog(at, edge, sign * eps)
        states.append(edge)
    expected = torch.ones(400, dtype=torch.bool)
    for size in (2, 4, 8):
        for first in range(0, 8, size):
            expected &= ~turned(states[first], states[first + size - 1], sign)
    assert torch.equal(half.whole, expected) and 0.2 < float(expected.double().mean()) < 0.8
    change = torch.stack([h0 - z.at.e - 0.5 * z.v.square().sum(1) for z in states])
    torch.testing.assert_close(half.log_w[expected], change.logsumexp(0)[expected])
    taken = torch.zeros(400, dtype=torch.int64)
    for n in range(8):  # reservoir sampling: state n replaces the draw with its share of the weights so far
        taken = torch.where(u[n].log() < change[n] - change[: n + 1].logsumexp(0), n, taken)
    drawn = torch.stack([z.at.x for z in states])[taken, torch.arange(400)]
    torch.testing.assert_close(half.drawn.x[expected], drawn[expected])


def test_it_counts_the_gradients_of_the_slowest_chain(generator):
    calls = []

    def energy(x):
        calls.append(len(x))
        return 0.5 * x.square().sum(1)

    out = nuts(0.3, steps=3, depth=6)(energy, torch.randn(7, 2, generator=generator), {}, generator=generator)
    assert out.grad_evals == sum(calls) and len(calls) < 1 + 3 * 63, "trajectories end before the deepest tree"
    free = nuts(0.01, steps=1, depth=4)(energy, torch.randn(7, 2, generator=generator), {}, generator=generator)
    assert free.grad_evals == 7 * 16, "no turn within 15 tiny steps"


@pytest.mark.parametrize("eps", [0.01, 3.0])
def test_dual_averaging_finds_its_target_and_freezes(eps, generator):
    """The mean acceptance of 60 frozen trajectories is the target within 0.03, and the frozen step size stays."""
    energy = gaussian_energy(torch.zeros(5).double(), covariance(5, generator))
    sampler, x, state = (
        nuts(eps, steps=20, target=0.8, warmup=200),
        torch.randn(200, 5, generator=generator).double(),
        {},
    )
    for _ in range(10):
        x, state, _, _ = sampler(energy, x, state, generator=generator)
    assert int(state["age"]) == 200 and torch.equal(state["log_eps"], state["log_eps_mean"])
    found = []
    for _ in range(3):
        x, after, metrics, _ = sampler(energy, x, state, generator=generator)
        found.append(float(metrics["acceptance"]))
    assert sum(found) / 3 == pytest.approx(0.8, abs=0.03)
    assert torch.equal(after["log_eps"], state["log_eps"]) and float(state["log_eps"].exp()) > 0.1


def test_without_a_warm_up_the_step_size_follows_a_target_that_changes(generator):
    sampler, x, state = nuts(0.3, steps=20, target=0.8), torch.randn(200, 3, generator=generator).double(), {}
    sizes = []
    for width in (1.0, 0.1):
        energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double() / width**2)
        for _ in range(12):
            x, state, metrics, _ = sampler(energy, x, state, generator=generator)
        sizes.append(float(state["log_eps"].exp()))
        assert float(metrics["acceptance"]) == pytest.approx(0.8, abs=0.05)
    assert sizes[0] / sizes[1] == pytest.approx(10, rel=0.3)


def test_a_state_of_nan_energy_is_never_drawn(generator):
    broken = lambda x: torch.where(x.abs() > 1, math.nan, x**2).sum(1)  # noqa: E731
    out = nuts(0.5, target=0.8)(broken, torch.zeros(100, 1), {}, generator=generator)
    assert out.x.isfinite().all() and out.x.abs().max() <= 1 and out.state["log_eps"].isfinite()
