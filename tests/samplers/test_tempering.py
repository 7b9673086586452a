"""Parallel tempering: every replica's exact law, swaps by enumeration, and weights of modes that no chain crosses."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.special import betainc

from ebm_lab.core.errors import UserError
from ebm_lab.samplers.langevin import Langevin
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.tempering import Tempering, climbed, swap_log_ratio, swapped

GRID = torch.linspace(-60, 60, 400_001).double()


def sampler(steps=10, replicas=4, max_temperature=8.0, step_size=0.8, target=None, rate=0.0):
    return Tempering(
        1.0,
        steps=steps,
        replicas=replicas,
        max_temperature=max_temperature,
        step_size=step_size,
        target_acceptance=target,
        adapt_rate=rate,
    )


def mixture(x, apart=8.0):
    """-log(0.2 N(-apart / 2, 1) + 0.8 N(apart / 2, 1)), summed over the coordinates."""
    x = x.flatten(1)
    a, b = -((x + apart / 2) ** 2) / 2 + math.log(0.2), -((x - apart / 2) ** 2) / 2 + math.log(0.8)
    return -torch.logaddexp(a, b).sum(1)


def near(x):
    """A lopsided density with two modes that do touch: swaps and moves matter alike."""
    return mixture(x, 4.0)


def law(energy, t):
    p = torch.exp(-energy(GRID.view(-1, 1)) / t)
    return p / p.sum()


def draws(energy, t, n, generator):
    cdf = law(energy, t).cumsum(0)
    return GRID[torch.searchsorted(cdf, torch.rand(n, generator=generator, dtype=torch.float64))]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_every_replica_keeps_its_exact_law(shuffle, steps, generator):
    """Replicas that begin at the law of their temperature stay there, (1, 2)-shaped states, also where chains are dealt
    anew before each call as a replay buffer does: mean and second moment within 4 standard errors, at every T."""
    n, own = 10_000, sampler(steps)
    start = [draws(near, t, 2 * n, generator).view(n, 1, 2) for t in own.temperatures(torch.zeros(())).tolist()]
    x, state = start[0], {}
    state = own(near, x, {}, generator=generator).state | {"hot": torch.stack(start[1:])}
    for _ in range(20 // steps):
        if shuffle:
            x = x[torch.randperm(n, generator=generator)]
        x, state, metrics, _ = own(near, x, state, generator=generator)
    assert 0.3 < float(metrics["swap_acceptance"]) < 0.95 and 0.2 < float(metrics["acceptance"]) < 0.95
    for t, replica in zip(own.temperatures(torch.zeros(())).tolist(), [x, *state["hot"]], strict=True):
        for power in (1, 2):
            values, expected = replica.flatten() ** power, float((law(near, t) * GRID**power).sum())
            assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / len(values) ** 0.5, (t, power)


def test_it_finds_the_weights_of_modes_that_langevin_and_mala_never_leave(generator):
    """Modes of weights 0.2 and 0.8, 12 standard deviations apart, all 4,000 chains begun in the lighter one. After as
    many gradients as tempering took, Langevin and MALA have not moved 1 % of them; tempering has the heavier mode's
    weight to 0.03 (standard error 0.0063), and the mean within a mode."""
    n, gradients = 4000, 6 * 300
    x = -6 + torch.randn(n, 1, generator=generator).double()
    langevin = Langevin(1.0, steps=gradients, step_size=0.7, noise_scale=1.0, clip_grad=None)
    fixed = {"target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity", "warmup": None}
    mala = MALA(1.0, steps=gradients, step_size=1.0, **fixed)
    far = lambda x: mixture(x, 12.0)  # noqa: E731
    for stuck in (langevin, mala):
        assert float((stuck(far, x, {}, generator=generator).x > 0).double().mean()) < 0.01
    out = sampler(300, replicas=6, max_temperature=20.0, target=0.6, rate=0.02)(far, x, {}, generator=generator)
    right = out.x > 0
    assert abs(float(right.double().mean()) - 0.8) < 0.03
    assert float(out.x[right].mean()) == pytest.approx(6, abs=0.08) and float(out.metrics["round_trips"]) > 100


def test_swaps_fulfil_detailed_balance():
    """pi(x) a(x -> x') = pi(x') a(x' -> x) for every pair of energies at every pair of neighbouring temperatures."""
    t = torch.tensor([1.0, 2.5, 7.0]).double()
    levels = torch.tensor([-3.0, 0.2, 1.0, 6.0]).double()
    e = torch.cartesian_prod(levels, levels, levels).T
    for pair in (0, 1):
        other = e.clone()
        other[[pair, pair + 1]] = e[[pair + 1, pair]]
        there, back = swap_log_ratio(e, t)[pair], swap_log_ratio(other, t)[pair]
        gap = -(other / t.view(-1, 1)).sum(0) + (e / t.view(-1, 1)).sum(0)  # log pi(x') - log pi(x)
        torch.testing.assert_close(there.clamp_max(0), gap + back.clamp_max(0))


def test_swapped_is_the_permutation_of_the_accepted_pairs():
    accepted = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 0]]).bool()  # three pairs of four replicas, three chains
    assert swapped(accepted).T.tolist() == [[1, 0, 3, 2], [0, 2, 1, 3], [1, 0, 2, 3]]


@pytest.mark.parametrize("d, known", [(2, 2 / 3), (10, 0.2896916)])
def test_swaps_of_gaussians_are_accepted_as_the_incomplete_beta_function_says(d, known, generator):
    """E = |x|^2 / 2 at 1 / T = b and 2 b: 2 I_{1/3}(d / 2, d / 2), within 4 standard errors of 100,000 exact draws."""
    t = torch.tensor([1.0, 2.0]).double()
    e = t[:, None] * 0.5 * torch.randn(2, 100_000, d, generator=generator).double().square().sum(2)
    chance = swap_log_ratio(e, t)[0].clamp_max(0).exp()
    assert 2 * betainc(d / 2, d / 2, 1 / 3) == pytest.approx(known, abs=5e-8)
    assert abs(float(chance.mean()) - known) < 4 * float(chance.std()) / len(chance) ** 0.5


@pytest.mark.parametrize("replicas, known, at_random", [(5, 0.1956, 0.0900), (9, 0.2142, 0.0536)])
def test_round_trips_of_the_even_odd_scheme_and_of_random_turns(replicas, known, at_random, generator):
    """Replicas that forget their energies between the swaps, E = |x|^2 / 2 in the plane, 1 / T from 1 to 0.1:
    1 / (2 + 2 sum r / (1 - r)) round trips a step within 4 standard errors, and fewer if the turns are random."""
    t, chains, steps = 10 ** torch.linspace(0, 1, replicas).double(), 2000, 200
    r = torch.tensor([1 - 2 * betainc(1, 1, 1 / (1 + float(b / a))) for a, b in pairwise(t)])
    assert 1 / (2 + 2 * float((r / (1 - r)).sum())) == pytest.approx(known, abs=5e-5)
    assert float(r.sum()) == pytest.approx({5: 1.12052, 9: 1.14341}[replicas], abs=5e-6)
    pairs = torch.arange(replicas - 1).view(-1, 1)
    for expected, even_odd in ((known, True), (at_random, False)):
        was_hot, trips = torch.zeros(replicas, chains, dtype=torch.bool), torch.zeros(chains).double()
        for step in range(100 + steps):
            e = -t[:, None] * torch.rand(replicas, chains, generator=generator).double().log()
            yes = torch.rand(replicas - 1, chains, generator=generator).log() < swap_log_ratio(e, t)
            turn = step if even_odd else torch.randint(2, (chains,), generator=generator)
            was_hot, back = climbed(was_hot, swapped(yes & ((pairs + turn) % 2 == 0)))
            trips += back if step >= 100 else 0
        rate = trips / steps
        assert abs(float(rate.mean()) - expected) < 4 * float(rate.std()) / chains**0.5 + 5e-5


@pytest.mark.parametrize("replicas", [2, 3, 6])
@pytest.mark.parametrize("calls", [1, 7])
def test_on_a_flat_energy_each_replica_goes_round_in_2_r_steps(replicas, calls, generator):
    """All is accepted, so a replica climbs a rung a step, waits one at each end, and R replicas share a chain: half a
    round trip a step, 500 in 1,000, by turns that go on from call to call."""
    flat, x, state = lambda x: 0 * x.flatten(1).sum(1), torch.zeros(5, 1), {}
    own, trips = sampler(2 * replicas * 10 + 1, replicas, target=None), []
    for _ in range(calls):
        x, state, metrics, _ = own(flat, x, state, generator=generator)
        trips.append(float(metrics["round_trips"]))
    edge = 1000 * 3 / own.steps  # a trip more or less at either end of a call, and the first climb
    assert sum(trips) / calls == pytest.approx(500, abs=edge)
    assert float(metrics["swap_acceptance"]) == 1 and int(state["turn"]) == calls * own.steps


def test_each_temperature_finds_its_step_size(generator):
    """On E = |x|^2 / 2 the law's width is sqrt(T), and so is the step's share of it: eps_T / eps_1 = sqrt(T)."""
    own = sampler(50, replicas=3, max_temperature=9.0, step_size=0.05, target=0.6, rate=0.1)
    x, state = torch.randn(2000, 5, generator=generator).double(), {}
    for _ in range(8):
        x, state, metrics, _ = own(lambda x: 0.5 * x.square().sum(1), x, state, generator=generator)
    ratio = (state["log_eps"] - state["log_eps"][0]).exp()
    torch.testing.assert_close(ratio, torch.tensor([1.0, 3**0.5, 3.0]).double(), rtol=0.04, atol=0)
    assert float(metrics["acceptance"]) == pytest.approx(0.6, abs=0.03)


def test_it_takes_k_plus_1_gradients_of_all_replicas_at_once(generator):
    seen = []

    def energy(x):
        seen.append(len(x))
        return x.flatten(1).square().sum(1)

    out = sampler(10, replicas=4)(energy, torch.zeros(5, 3, 2), {}, generator=generator)
    assert seen == [20] * 11 and out.grad_evals == 220
    assert out.x.shape == (5, 3, 2) and out.state["hot"].shape == (3, 5, 3, 2)
    assert {"swap_1", "swap_2", "swap_3"} <= out.metrics.keys()
    swaps = sum(float(out.metrics[f"swap_{i}"]) for i in (1, 2, 3))
    assert float(out.metrics["barrier"]) == pytest.approx(3 - swaps, abs=1e-5)
    torch.testing.assert_close(out.state["log_eps"].exp(), 0.8 * torch.tensor([1.0, 2.0, 4.0, 8.0]) ** 0.5)


def test_state_goes_on_exactly_and_another_batch_size_begins_anew(generator):
    x, one, two = torch.zeros(6, 2), torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    whole = sampler(10)(near, x, {}, generator=one)
    half = sampler(5)(near, x, {}, generator=two)
    kept = {name: value.clone() for name, value in half.state.items()}
    rest = sampler(5)(near, half.x, half.state, generator=two)
    assert torch.equal(rest.x, whole.x) and all(torch.equal(rest.state[k], whole.state[k]) for k in whole.state)
    assert all(torch.equal(half.state[k], kept[k]) for k in kept), "a state that was handed in is left as it was"
    assert sampler(5)(near, x[:4], half.state, generator=two).state["hot"].shape == (3, 4, 2)


def test_a_replica_of_nan_energy_is_refused(generator):
    broken = lambda x: torch.where(x.abs() > 1, math.nan, x**2).sum(1)  # noqa: E731
    out = sampler(20, target=0.6, rate=0.1)(broken, torch.zeros(100, 1), {}, generator=generator)
    assert out.x.abs().max() <= 1 and out.state["hot"].abs().max() <= 1
    assert all(value.isfinite() for value in out.metrics.values())


def test_it_can_t_be_differentiated_through(generator):
    with pytest.raises(UserError, match="sampler 'tempering': swaps have no derivative; choose sampler=langevin"):
        sampler()(near, torch.zeros(4, 1), {}, generator=generator, differentiable=True)
