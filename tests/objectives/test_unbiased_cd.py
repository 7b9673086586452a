"""Unbiased contrastive divergence: couplings keep each chain's law, meet as often as they can, and the expectation of
the estimate is the model's."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Batch
from ebm_lab.core.mcmc import coupled_independence_steps, coupled_normals
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.objectives.unbiased_cd import UnbiasedCD, coupling_correction
from ebm_lab.samplers.mala import MALA
from scripts.theory.line import LineEnergy, data, mle_gradient, under
from tests.helpers import Points, faults_of, gaussian_energy

A, S = 0.9, 1.7


def mala(**more):
    settings = {"steps": 1, "step_size": 1.0, "target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0}
    return MALA(1.0, **{**settings, "mass": "identity", "warmup": None, **more})


def objective_of(energy, generator, points=None, sampler=None, **more):
    x = torch.randn(500, 1, generator=generator).double() if points is None else points
    settings = {"burn_in": 1, "max_moves": 60, "refresh": 0, "data_noise": 0.0, "energy_l2": 0.0, **more}
    return UnbiasedCD(energy, sampler or mala(), Points(x), generator, **settings)


def normal():
    return gaussian_energy(torch.zeros(1).double(), torch.tensor([[A]], dtype=torch.float64))


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("d", [1, 3])
def test_coupled_normals_keep_their_laws_and_meet_as_often_as_they_can(d, distance, generator):
    """Means, variances and third moments of the second within 5 standard errors; they meet with probability
    2 Phi(-|a| / 2), one minus the total variation."""
    n, x = 40_000, torch.zeros(d).double()
    x[0] = distance
    y = torch.linspace(0, 1, d).double()
    z, u = torch.randn(n, d, generator=generator).double(), torch.rand(n, generator=generator).double()
    first, second = coupled_normals((x + y).expand(n, d), y.expand(n, d), z, u)
    torch.testing.assert_close(first, x + y + z)
    w = second - y
    assert w.mean(0).abs().max() < 5 / n**0.5
    assert (w.T.cov() - torch.eye(d)).abs().max() < 5 * (2 / n) ** 0.5
    assert w.pow(3).mean(0).abs().max() < 5 * (15 / n) ** 0.5
    met = float((first == second).all(1).double().mean())
    exact = math.erfc(distance / 2 / 2**0.5)
    assert met == pytest.approx(exact, abs=5 * (exact * (1 - exact) / n) ** 0.5 + 1e-12)


def test_coupled_mala_keeps_the_law_of_both_chains(generator):
    """From independent exact draws of N(0, 1 / a), three steps of size 1.2 leave both variances, and many have met; a
    chain whose acceptance forgot the drift would not."""
    n, energy = 20_000, normal()
    x, y = (torch.randn(n, 1, generator=generator).double() / A**0.5 for _ in range(2))
    sampler = mala(steps=3, step_size=1.2)
    chain, other = sampler.couple(energy, x, y, {}, generator=generator)
    for z in (chain.x, other):
        assert float(z.mean()) == pytest.approx(0, abs=5 / (A * n) ** 0.5)
        assert float(z.var()) == pytest.approx(1 / A, rel=5 * (2 / n) ** 0.5)
    assert float((chain.x == other).double().mean()) > 0.5
    again, still = sampler.couple(energy, chain.x, chain.x, chain.state, generator=generator)
    assert torch.equal(again.x, still) and not torch.equal(again.x, chain.x)
    assert chain.grad_evals == 2 * 4 * n


def test_a_coupled_chain_moves_as_one_alone(generator):
    """One step from a fixed point: mean and variance of both coupled chains are those of MALA itself from there."""
    n, energy, sampler = 40_000, normal(), mala()
    x, y = torch.full((n, 1), 1.5).double(), torch.full((n, 1), -0.5).double()
    chain, other = sampler.couple(energy, x, y, {}, generator=generator)
    for start, end in ((x, chain.x), (y, other)):
        alone = sampler(energy, start, {}, generator=generator).x
        error = 5 * (2 / n) ** 0.5 * float(alone.std())
        assert float(end.mean()) == pytest.approx(float(alone.mean()), abs=error)
        assert float(end.var()) == pytest.approx(float(alone.var()), abs=5 * 3 * float(alone.var()) / n**0.5)


def test_coupling_adapts_only_after_its_steps_and_reaches_the_target(generator):
    """The steps of one call have one size; over calls, the acceptance comes to its target."""
    energy, sampler = normal(), mala(steps=4, step_size=4.0, target_acceptance=0.6, adapt_rate=0.1, mass="diagonal")
    x, state = torch.randn(400, 1, generator=generator).double() / A**0.5, {}
    state = sampler.begin(energy, x, generator)
    for _ in range(60):
        chain, _ = sampler.couple(energy, x, x, state, generator=generator)
        assert torch.equal(chain.metrics["step_size"], state["log_eps"].exp()) and chain.state.keys() == state.keys()
        x, state = chain.x, chain.state
    assert float(chain.metrics["acceptance"]) == pytest.approx(0.6, abs=0.08) and int(state["age"]) == 240


@pytest.mark.parametrize("steps", [1, 3])
def test_coupled_independence_steps_keep_the_law_and_meet(steps, generator):
    """Proposals from N(0, 2^2): both chains keep the variance 1 / a; where both accept they meet."""
    n, energy, law = 20_000, normal(), IsotropicGaussian(torch.zeros(1).double(), 2.0)
    x, y = (torch.randn(n, 1, generator=generator).double() / A**0.5 for _ in range(2))
    new_x, new_y = coupled_independence_steps(energy, x, y, law, steps, generator)
    for z in (new_x, new_y):
        assert float(z.var()) == pytest.approx(1 / A, rel=5 * (2 / n) ** 0.5)
    moved = (new_x != x) & (new_y != y)
    assert 0.3 < float(moved.double().mean()) < 1 and not torch.equal(new_x != x, new_y != y)
    met = float((new_x == new_y).double().mean())
    assert steps > 1 or torch.equal(new_x[moved], new_y[moved])
    assert met > (0.3 if steps == 1 else 0.7)


def estimate(objective, x, f):
    """H of each chain for the functions f, (B, m): f(X_k) plus the correction."""
    chain = objective.negatives(x)
    xs, ys, apart = objective._pairs
    terms = torch.where(apart[..., None], f(xs) - f(ys), 0.0).sum(0)
    return f(chain.x), terms, chain


@pytest.mark.parametrize("burn_in", [1, 3])
def test_the_expectation_is_the_model_s_for_a_gaussian(burn_in, generator):
    """E x^2 / 2 = 1 / (2 a) from data of another variance, within 4 standard errors, where CD-1 is many away."""
    objective = objective_of(normal(), generator, burn_in=burn_in)
    x = S**0.5 * torch.randn(20_000, 1, generator=generator).double()
    plain, terms, chain = estimate(objective, x, lambda z: 0.5 * z**2)
    error = float((plain + terms).std()) / len(x) ** 0.5
    assert float((plain + terms).mean()) == pytest.approx(1 / (2 * A), abs=4 * error)
    assert error < 0.02 and float(chain.metrics["unmet"]) == 0
    assert burn_in > 1 or abs(float(plain.mean()) - 1 / (2 * A)) > 5 * float(plain.std()) / len(x) ** 0.5


def test_independence_steps_keep_the_law_of_the_sampler_s_temperature(generator):
    """E x^2 / 2 = T / (2 a) at T = 1/2, within 4 standard errors, with and without them."""
    x = S**0.5 * torch.randn(20_000, 1, generator=generator).double()
    for refresh in (0, 2):
        objective = objective_of(normal(), generator, sampler=mala(temperature=0.5), refresh=refresh)
        plain, terms, chain = estimate(objective, x, lambda z: 0.5 * z**2)
        error = float((plain + terms).std()) / len(x) ** 0.5
        assert float((plain + terms).mean()) == pytest.approx(0.5 / (2 * A), abs=4 * error)
        assert error < 0.01 and float(chain.metrics["unmet"]) == 0


def test_the_expectation_is_the_likelihood_s_gradient_for_a_mixture(generator):
    """The energy of the line, chains from its data: all three components of the gradient within 4 standard errors;
    independence steps and MALA in each move."""
    energy, law = LineEnergy(), data()
    exact = mle_gradient(energy, law)
    objective = objective_of(energy, generator, refresh=2, burn_in=1)
    x = law.sample(20_000, generator)

    def f(z):
        u = z[..., 0]
        return torch.stack([u**2 / 2, u, (u - 0.3).cosh().log()], -1)

    plain, terms, chain = estimate(objective, x, f)
    points, p = under(law)
    gradient = (p[:, None] * f(points)).sum(0) - (plain + terms).mean(0)
    error = (plain + terms).std(0) / len(x) ** 0.5
    assert ((gradient - exact).abs() < 4 * error).all()
    assert ((gradient + terms.mean(0) - exact).abs() > 4 * error).any()  # CD-1 itself
    assert float(chain.metrics["unmet"]) == 0


def test_the_loss_has_the_gradient_of_its_estimate(generator):
    """The surrogate's gradient in a is the mean of x^2 / 2 over the data, less that of H; the same draws."""
    energy = normal()
    objective = objective_of(energy, generator)
    x, state = S**0.5 * torch.randn(300, 1, generator=generator).double(), generator.get_state()
    told = objective(Batch(x))
    told.value.backward()
    generator.set_state(state)
    objective.sampler_state = {}
    plain, terms, chain = estimate(objective, x, lambda z: 0.5 * z**2)
    expected = float(0.5 * x.square().mean() - (plain + terms).mean())
    assert float(energy.factor.grad) / (2 * A**0.5) == pytest.approx(expected, rel=1e-9)
    assert float(told.metrics["correction"]) == pytest.approx(float(A * terms.mean()), rel=1e-9)
    assert told.grad_evals == chain.grad_evals + 2 * 300 + 2 * 59 * 300


def test_terms_count_only_while_chains_are_apart(generator):
    x, y = (torch.randn(3, 4, 1, generator=generator).double() for _ in range(2))
    apart = torch.tensor([[True, True, False, True], [True, False, False, True], [False, False, False, True]])
    energy = normal()
    found = coupling_correction(energy, x, y, apart).detach()
    rise = 0.5 * A * (x**2 - y**2)[..., 0]
    expected = torch.stack([rise[0, 0] + rise[1, 0], rise[0, 1], torch.zeros(()).double(), rise[:, 3].sum()])
    torch.testing.assert_close(found, expected)


class Still(MALA):
    """A sampler whose chains stay where they are."""

    def couple(self, energy, x, y, state, *, generator):
        return super().couple(energy, x, y, state, generator=generator)[0]._replace(x=x), y


def test_meeting_times_are_counted_from_the_first_move(generator):
    """Independence steps from the model itself are always accepted: X_1 = Y_0 never, X_2 = Y_1 always, so tau = 2. A
    kernel that never moves has X_1 = Y_0: tau = 1, at a temperature that changes nothing."""

    class Own(nn.Module):
        def forward(self, x):
            return -law.log_prob(x)

    points = torch.randn(400, 1, generator=generator).double()
    law = IsotropicGaussian(Points(points).mean, Points(points).scale)
    still = {"step_size": 1.0, "target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity"}
    sampler = Still(1.0, steps=1, warmup=None, **still)
    for refresh, expected in ((1, 2.0), (0, 1.0)):
        objective = objective_of(Own(), generator, points, sampler, refresh=refresh, max_moves=5)
        metrics = objective.negatives(points).metrics
        assert float(metrics["meeting_time"]) == expected and float(metrics["unmet"]) == 0
    slow = objective_of(normal(), generator, sampler=mala(step_size=0.1), max_moves=2)
    metrics = slow.negatives(torch.randn(300, 1, generator=generator).double()).metrics
    assert float(metrics["unmet"]) == pytest.approx(float(metrics["meeting_time"]) - 1 - 0.97, abs=0.06)


def test_what_cannot_be_coupled_is_refused(generator):
    with pytest.raises(UserError, match="objective.max_moves=2: must be more than objective.burn_in=2"):
        objective_of(normal(), generator, burn_in=2, max_moves=2)
    lines = faults_of(Points(torch.randn(20, 2)), energy="mlp", objective="unbiased_cd", sampler="hmc")
    assert lines == [
        "objective 'unbiased_cd' trains with coupled chains, and sampler 'hmc' can't couple them: choose sampler=mala"
    ]
    lines = faults_of(Points(torch.randn(20, 2)), energy="mlp", objective="unbiased_cd", sampler="langevin")
    assert len(lines) == 2


def test_coupled_sweeps_of_an_rbm_estimate_the_model_s_mean_without_bias(generator):
    """Four visible and three hidden units with weights times 4, chains from 1010, f = x_0 p(h_0 = 1 | x): one sweep has
    a mean of .4990080, the model .3295797, and so have 20,000 coupled pairs, within 4.5 standard errors."""
    from ebm_lab.core.discrete import Sites
    from ebm_lab.samplers.block_gibbs import BlockGibbs
    from tests.energies.test_discrete import known_rbm

    rbm, n = known_rbm(), 20_000
    with torch.no_grad():
        rbm.w.mul_(4)

        def f(x):
            return x[:, 0] * (rbm.c[0] + x @ rbm.w[0]).sigmoid()

        points = torch.cat(list(Sites((4,)).every(rbm.b)))
        exact = float((-rbm(points)).softmax(0) @ f(points))
        assert exact == pytest.approx(0.3295797, abs=5e-8)
        kernel, start = BlockGibbs(steps=1), torch.tensor([[1.0, 0, 1, 0]]).double().expand(n, 4)
        x = kernel(rbm, start, {}, generator=generator).x
        y, h, error = start, f(x), 4.5 / n**0.5
        assert abs(float(h.mean()) - 0.4990080) < error * float(h.std())
        met = (x == y).all(1)
        for _ in range(400):
            chain, y_new = kernel.couple(rbm, x, y, {}, generator=generator)
            x, y = chain.x, torch.where(met[:, None], chain.x, y_new)
            met = met | (x == y).all(1)
            h = h + torch.where(met, 0.0, f(x) - f(y))
        assert bool(met.all())
        assert abs(float(h.mean()) - exact) < error * float(h.std())
