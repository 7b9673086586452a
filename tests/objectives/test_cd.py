"""Contrastive divergence with its neglected term, against the derivative of the divergence itself; and entropies."""

import math

import pytest
import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import energy_and_grad
from ebm_lab.core.interfaces import Batch
from ebm_lab.objectives._contrastive import contrast
from ebm_lab.objectives.cd import CD, chain_divergence
from ebm_lab.samplers.langevin import Langevin, langevin_step
from ebm_lab.samplers.mala import MALA
from ebm_lab.samplers.underdamped import Underdamped
from ebm_lab.statistics.entropy import nearest_neighbour_entropy
from tests.helpers import Drift, Points, exact_sample, faults_of, gaussian_energy

A, S, EPS = 0.9, 1.7, 0.5
PLAIN = {"data_noise": 0.0, "energy_l2": 0.0, "neglected_term": 0.0, "neglected_steps": None, "neglected_entropy": 1.0}


def langevin(steps=1, eps=EPS):
    return Langevin(1.0, steps=steps, step_size=eps, noise_scale=1.0, clip_grad=None)


def variance(a, k, eps=EPS):
    """Of k Langevin steps of E = a x^2 / 2 from variance S."""
    v = S
    for _ in range(k):
        v = (1 - eps**2 / 2 * a) ** 2 * v + eps**2
    return v


def divergence(a, k, eps=EPS):
    """KL(p || p_a) - KL(q_k || p_a) for p = N(0, S), without its constant."""
    v = variance(a, k, eps)
    return 0.5 * a * S - 0.5 * a * v + 0.5 * math.log(v)


def one_dimension(a):
    return gaussian_energy(torch.zeros(1).double(), torch.tensor([[a]]).double())


def gradient_in_a(coefficient, k, eps):
    """That of the contrast and of the neglected term, in a = factor^2, with the entropy of the chain in closed form;
    data and noise have their exact moments, so there is no error of sampling."""
    energy = one_dimension(A)
    draws = exact_sample(torch.zeros(k + 1).double(), torch.eye(k + 1).double(), 500, torch.Generator().manual_seed(0))
    x = x_neg = S**0.5 * draws[:, :1]
    for step in range(k):
        _, grad = energy_and_grad(energy, x_neg, create_graph=True)
        x_neg = langevin_step(x_neg, grad, draws[:, step + 1 : step + 2], eps)
    e_pos, e_neg = contrast(energy, x, x_neg)
    entropy = 0.5 * (2 * math.pi * math.e * variance(energy.precision[0, 0], k, eps)).log()
    loss = e_pos.mean() - e_neg.mean() - coefficient * chain_divergence(energy, x_neg, entropy).mean()
    loss.backward()
    return float(energy.factor.grad / (2 * energy.factor.detach()))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("eps", [0.2, 0.5, 0.9])
def test_with_the_neglected_term_the_gradient_is_exact(k, eps):
    difference = (divergence(A + 1e-5, k, eps) - divergence(A - 1e-5, k, eps)) / 2e-5
    assert gradient_in_a(1.0, k, eps) == pytest.approx(difference, rel=1e-7)


def test_figures_of_the_docstring():
    exact, naive, published = (gradient_in_a(c, 1, EPS) for c in (1.0, 0.0, -1.0))
    assert (exact, naive, exact - naive) == pytest.approx((0.106541, 0.055492, 0.051048), abs=1e-6)
    assert published == pytest.approx(0.004444, abs=1e-6)


def test_for_short_steps_the_published_sign_cancels_cd_1():
    """exact / naive -> 2, so -1 leaves 5.6, 1.5, 0.39 and 0.10 % of the gradient."""
    left = [gradient_in_a(-1.0, 1, eps) / gradient_in_a(0.0, 1, eps) for eps in (0.4, 0.2, 0.1, 0.05)]
    assert left == pytest.approx([0.056, 0.015, 0.0039, 0.0010], rel=0.04)


@pytest.mark.parametrize("coefficient", [1.0, -1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_expected_gradient_of_the_objective(coefficient, k, generator):
    """The whole objective in 4 dimensions, with nearest neighbours: the mean of 150 gradients per coordinate lies
    within 4 standard errors of the finite difference, themselves under 5 % of the neglected term. An isotropic chain
    changes with a by its scale alone, for which the entropy's derivative has no bias."""
    energy = gaussian_energy(torch.zeros(4).double(), A * torch.eye(4).double())
    settings = {**PLAIN, "neglected_term": coefficient}
    objective = CD(energy, langevin(k), Points(torch.randn(64, 4).double()), generator, **settings)
    draws = []
    for _ in range(150):
        energy.zero_grad()
        x = S**0.5 * torch.randn(600, 4, generator=generator).double()
        objective(Batch(x)).value.backward()
        draws.append(float(energy.factor.grad.diagonal().mean()) / (2 * A**0.5))
    draws = torch.tensor(draws).double()
    exact = (divergence(A + 1e-5, k) - divergence(A - 1e-5, k)) / 2e-5
    naive = 0.5 * (S - variance(A, k))
    expected = naive + coefficient * (exact - naive)
    se = float(draws.std()) / len(draws) ** 0.5
    assert abs(float(draws.mean()) - expected) < 4 * se
    assert se < 0.05 * (exact - naive)


def test_every_gradient_of_a_step_is_counted(generator):
    """Per datum: k along the chain, one at the datum and one at the chain's end; with the neglected term once more
    along the chain and at its end."""
    data = Points(torch.randn(20, 2, generator=generator).double())
    for coefficient, each in ((0.0, 3 + 2), (1.0, 3 + 2 + 1 + 3)):
        energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
        objective = CD(energy, langevin(3), data, generator, **{**PLAIN, "neglected_term": coefficient})
        assert objective(Batch(data.train)).grad_evals == 20 * each


def test_chains_that_have_the_data_s_spread_are_at_distance_one(generator):
    """sqrt(mean |x - mean|^2) / (scale sqrt(d)); the scale has n - 1 where the mean has n."""
    data = Points(3 + 2 * torch.randn(50, 4, generator=generator).double())
    energy = gaussian_energy(torch.zeros(4).double(), torch.eye(4).double())
    distance = CD(energy, Drift(0.0), data, generator, **PLAIN)(Batch(data.train)).metrics["chain_distance"]
    assert float(distance) == pytest.approx((49 / 50) ** 0.5)


@pytest.mark.parametrize(
    "sampler", [langevin(4), Underdamped(1.0, steps=4, step_size=0.5, friction=1.0, temperature=1.0)]
)
def test_the_last_steps_alone_are_differentiated_and_the_chains_are_the_same(sampler):
    """Chains by a sampler cut in two, then the gradient of -(E_sg(x) - H) along the second half only."""
    x, results = torch.randn(30, 2, generator=torch.Generator().manual_seed(3)).double(), []
    data, precision = Points(x), torch.tensor([[1.0, 0.4], [0.4, 0.8]]).double()
    for steps in (1, 4):
        energy = gaussian_energy(torch.zeros(2).double(), precision)
        settings = {**PLAIN, "neglected_term": 1.0, "neglected_steps": steps}
        objective = CD(energy, sampler, data, torch.Generator().manual_seed(5), **settings)
        chain = objective.negatives(x)
        extra = objective.extra(chain)
        extra.value.backward()
        results.append((chain, extra, energy.factor.grad))
    plain = CD(energy, sampler, data, torch.Generator().manual_seed(5), **PLAIN).negatives(x)
    assert sampler.steps == 4 and not plain.x.requires_grad
    for chain, _, _ in results:
        torch.testing.assert_close(chain.x.detach(), plain.x)

    energy, own = gaussian_energy(torch.zeros(2).double(), precision), torch.Generator().manual_seed(5)
    sampler.steps = 3
    first = sampler(energy, x, {}, generator=own)
    sampler.steps = 1
    last = sampler(energy, first.x, first.state, generator=own, differentiable=True)
    sampler.steps = 4
    (-chain_divergence(energy, last.x, nearest_neighbour_entropy(last.x)).mean()).backward()
    torch.testing.assert_close(results[0][2], energy.factor.grad)
    assert not torch.allclose(results[0][2], results[1][2], rtol=0.05)
    once = int(isinstance(sampler, Underdamped))  # BAOAB takes one gradient more a call
    assert results[1][0].grad_evals == 30 * (4 + once) and results[1][1].grad_evals == 30 * 5
    assert results[0][0].grad_evals == 30 * (4 + 2 * once) and results[0][1].grad_evals == 30 * 2


def test_its_weight_of_the_entropy(generator):
    """neglected_entropy multiplies H within the term."""
    x, values = torch.randn(20, 3, generator=generator).double(), []
    for weight in (0.0, 1.0, 0.3):
        settings = {**PLAIN, "neglected_term": 2.0, "neglected_entropy": weight}
        energy = gaussian_energy(torch.zeros(3).double(), torch.eye(3).double())
        objective = CD(energy, langevin(), Points(x), torch.Generator().manual_seed(5), **settings)
        values.append(objective(Batch(x)))
    entropy, (none, whole, part) = values[0].metrics["chain_entropy"], [v.value.detach() for v in values]
    torch.testing.assert_close(whole - none, 2 * entropy)
    torch.testing.assert_close(part - none, 0.6 * entropy)


def test_without_it_cd_is_the_contrast_of_data_and_chains():
    energy, own = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double()), torch.Generator().manual_seed(5)
    x = torch.randn(20, 2, generator=own).double()
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    loss = CD(energy, langevin(3), Points(x), one, **PLAIN)(Batch(x))
    x_neg = langevin(3)(energy, x, {}, generator=two).x
    torch.testing.assert_close(loss.value, energy(x).mean() - energy(x_neg).mean())
    assert loss.grad_evals == 20 * 5
    assert "chain_entropy" not in loss.metrics


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (1, 2, 2)], ids=str)
def test_entropy_of_a_gaussian(shape, generator):
    """Its closed form within 4 standard errors (neighbours share points, which at most doubles the variance) and, from
    three dimensions on, the estimator's bias: 20 sets of 1,000 points."""
    d = math.prod(shape)
    values = [nearest_neighbour_entropy(3 * torch.randn(1000, *shape, generator=generator).double()) for _ in range(20)]
    exact = 0.5 * d * math.log(2 * math.pi * math.e * 9)
    means = torch.stack([v.mean() for v in values])
    assert values[0].shape == (1000,)
    assert abs(float(means.mean()) - exact) < 4 * float(means.std()) / 20**0.5 + (
        0.5 * 1000 ** (-2 / d) if d > 2 else 0
    )


def test_entropy_has_no_bias_where_the_density_is_constant(generator):
    """Ten points round a circle of circumference 1: H = 0, within 4 standard errors of 20,000 sets, by the constant
    that the estimator adds to log rho. With log(n - 1) + gamma in place of psi(n) - psi(1) it would miss by 0.05."""
    u = torch.rand(20_000, 10, generator=generator).double()
    gap = (u.unsqueeze(2) - u.unsqueeze(1) + 0.5).remainder(1) - 0.5
    rho = gap.abs().masked_fill(torch.eye(10).bool(), 1).amin(2)
    pairs = torch.tensor([0, 1, 100, 101, 200, 201, 300, 301, 400, 401]).double().view(10, 1)  # rho = 1 for each
    constant = float(nearest_neighbour_entropy(pairs)[0])
    h = rho.log().mean(1) + constant
    assert abs(float(h.mean())) < 4 * float(h.std()) / 20_000**0.5


def test_entropy_and_its_gradient_follow_the_scale(generator):
    """H(c x) = H(x) + d log c, so its derivative in c is d / c, sample by sample."""
    x, c = torch.randn(50, 3, generator=generator).double(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    moved = nearest_neighbour_entropy(c * x)
    torch.testing.assert_close(moved, nearest_neighbour_entropy(x) + 3 * math.log(2))
    (grad,) = torch.autograd.grad(moved.mean(), c)
    assert float(grad) == pytest.approx(1.5)


def test_what_can_t_be_differentiated_is_refused(generator):
    energy = gaussian_energy(torch.zeros(2).double(), torch.eye(2).double())
    fixed = {"target_acceptance": None, "adapt_rate": 0.0, "temperature": 1.0, "mass": "identity", "warmup": None}
    mala, data = MALA(1.0, steps=3, step_size=0.1, **fixed), Points(torch.randn(8, 2))
    CD(energy, mala, data, generator, **PLAIN)
    cd = ("cd", {**PLAIN, "neglected_term": 0.5})
    assert faults_of(data, energy="gaussian", objective=cd, sampler="mala") == [
        "objective.neglected_term=0.5: needs differentiable chains, and sampler 'mala' has none: "
        "choose sampler=langevin or underdamped, or objective.neglected_term=0"
    ]
    with pytest.raises(UserError, match="objective.neglected_steps=4: the sampler takes only 3 steps"):
        CD(energy, langevin(3), data, generator, **{**PLAIN, "neglected_term": 0.5, "neglected_steps": 4})
    (line,) = faults_of(data, energy=("mlp", {"activation": "relu"}), objective=cd, sampler="langevin")
    assert line.startswith("objective.neglected_term=0.5: differentiates the score, and energy 'mlp' has an activation")
    with pytest.raises(UserError, match="at least two of them, and there is 1"):
        nearest_neighbour_entropy(torch.zeros(1, 2))
