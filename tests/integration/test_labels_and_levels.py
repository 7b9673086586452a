"""Energies of labels and levels, and energies made of energies, against formulas and autograd."""

import pytest
import torch
from torch import nn

from ebm_lab.core.derived import Annealed, Coordinates, Tempered, Tethered
from ebm_lab.core.errors import UserError
from ebm_lab.core.functional import (
    energy_and_grad,
    evaluate,
    in_parts,
    score_and_curvature,
    stacked,
)
from ebm_lab.core.interfaces import Energy
from ebm_lab.core.mcmc import independence_step
from ebm_lab.core.random import stream
from ebm_lab.distributions.elementary import IsotropicGaussian
from ebm_lab.objectives.nce import noise_contrastive_estimation
from ebm_lab.samplers.tempering import Tempering
from tests.helpers import gaussian_energy

CLASSES, D = 3, 2


class Labelled(Energy):
    """-E(x, y, sigma) = log w_y - |x - m_y|^2 / (2 (1 + sigma^2)), in float64: every answer is known."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.tensor([[-2.0, 0], [2, 0], [0, 3]], dtype=torch.float64))
        self.log_w = nn.Parameter(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log())
        self.classes, self.lowest = CLASSES, 0.1

    def logits(self, x, sigma=None):
        sigma = torch.as_tensor(self.lowest if sigma is None else sigma, dtype=x.dtype).expand(len(x))
        return self.log_w - 0.5 * (x[:, None] - self.m).square().sum(2) / (1 + sigma**2)[:, None]

    def forward(self, x, y=None, sigma=None):
        logits = self.logits(x, sigma)
        return -logits.logsumexp(1) if y is None else -logits.gather(1, y[:, None]).squeeze(1)


@pytest.fixture
def given():
    generator = stream(0, "test", 0, torch.device("cpu"))
    x = torch.randn(6, D, generator=generator, dtype=torch.float64)
    return Labelled(), x, torch.tensor([0, 2, 1, 1, 0, 2]), torch.rand(6, generator=generator, dtype=torch.float64)


def test_labels_and_levels_are_given_in_any_order_and_none_is_the_marginal(given):
    energy, x, y, sigma = given
    both = -energy.logits(x, sigma)[torch.arange(6), y]
    for bound in (
        energy.given(y=y).given(sigma=sigma),
        energy.given(sigma=sigma).given(y=y),
        energy.given(y=y, sigma=sigma),
    ):
        assert torch.equal(bound(x), both)
    assert energy.given() is energy and energy.given(y=None, sigma=None) is energy
    assert torch.equal(energy.given(sigma=sigma)(x), -energy.logits(x, sigma).logsumexp(1))
    assert torch.equal(energy.given(y=y)(x), energy(x, y=y)) and torch.equal(energy.given(sigma=0.1)(x), energy(x))
    assert torch.equal(energy.given(sigma=sigma).logits(x), energy.logits(x, sigma))
    v = (1 + sigma**2)[:, None]
    assert torch.allclose(energy.given(y=y, sigma=sigma).score(x), (energy.m[y] - x).detach() / v, atol=1e-14)
    tempered = Tempered(energy, 2.0).given(y=y)
    assert torch.equal(tempered(x), energy(x, y=y) / 2)


def test_an_energy_without_labels_says_so():
    energy = gaussian_energy(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    with pytest.raises(UserError, match="energy 'Gaussian' has no labels"):
        energy.given(y=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="has no noise levels"):
        energy.given(sigma=1.0)


def test_rows_select_repeat_and_split_what_is_bound(given):
    energy, x, y, sigma = given
    bound = Tethered(energy.given(y=y, sigma=sigma), x.flip(0), sigma + 1)
    e, index = bound(x), torch.tensor([5, 0, 0, 3])
    assert torch.equal(bound.rows(index)(x[index]), e[index])
    assert torch.equal(in_parts(bound, x, 4), e)
    first, twice = stacked(bound, x, torch.cat([x + 1, x - 1]))
    assert torch.equal(first, e) and torch.equal(twice, torch.cat([bound(x + 1), bound(x - 1)]))
    with pytest.raises(
        UserError,
        match=r"'anchor' has 6 rows, and the batch has 4: bind the energy to these samples with its rows\(index\)",
    ):
        bound(x[:4])
    with pytest.raises(UserError, match="'y' has 6 rows"):
        evaluate(energy.given(y=y), x[:1])
    v = torch.randn(2, 6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curvature = score_and_curvature(bound, x, v)[2]
    parts = [score_and_curvature(bound.rows(torch.tensor([i])), x[i : i + 1], v[:, i : i + 1])[2] for i in range(6)]
    assert torch.allclose(curvature, torch.cat(parts), atol=1e-12)


def test_nce_of_a_conditioned_energy_is_that_of_each_label(given):
    energy, x, y, _ = given
    noise, log_z = IsotropicGaussian(torch.zeros(D, dtype=torch.float64), 2.0), torch.tensor(0.3)
    x_noise = noise.sample(12, torch.Generator().manual_seed(2))
    values = noise_contrastive_estimation(energy.given(y=y), log_z, x, x_noise, noise)[0]
    for i in range(6):
        own = noise_contrastive_estimation(energy.given(y=y[i : i + 1]), log_z, x[i : i + 1], x_noise[i::6], noise)[0]
        assert torch.allclose(values[i], own[0], atol=1e-14)


@pytest.mark.parametrize("move", ["independence", "tempering"])
def test_chains_of_a_conditioned_energy_reach_the_law_of_their_label(move, given):
    """p(x | y) is N(m_y, (1 + lowest^2) I): the mean of 4000 chains has a standard error of .016 in each coordinate."""
    energy, generator = given[0], torch.Generator().manual_seed(3)
    y = torch.arange(CLASSES).repeat(4000)
    start = IsotropicGaussian(torch.zeros(D, dtype=torch.float64), 3.0)
    bound, x, state = energy.given(y=y), start.sample(len(y), generator), {}
    sampler = Tempering(
        1.0, steps=40, replicas=3, max_temperature=4.0, step_size=0.8, target_acceptance=None, adapt_rate=0.0
    )
    if move == "independence":
        for _ in range(60):
            x, _ = independence_step(bound, x, start, generator)
    else:
        x = sampler(bound, x, state, generator=generator).x
    for k in range(CLASSES):
        own = x[y == k]
        assert torch.allclose(own.mean(0), energy.m[k].detach(), atol=0.08)
        assert torch.allclose(own.T.cov(), 1.01 * torch.eye(D, dtype=torch.float64), atol=0.12)


def made(inner):
    generator = torch.Generator().manual_seed(4)
    anchor = torch.randn(5, D, generator=generator, dtype=torch.float64)
    row = torch.rand(5, generator=generator, dtype=torch.float64) + 0.5
    lower = torch.tensor([[1.5, 0], [0.4, 0.7]], dtype=torch.float64)
    other = gaussian_energy(torch.ones(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64))
    return {
        "tempered": Tempered(inner, 0.5),
        "coordinates": Coordinates(inner, torch.tensor([1.0, -2.0]).double(), lower),
        "coordinates of rows": Coordinates(inner, anchor, row),
        "tethered": Tethered(inner, anchor, 0.7),
        "tethered by rows": Tethered(inner, anchor, row),
        "annealed": Annealed(other, inner, 0.3),
    }


@pytest.mark.parametrize(
    "name", ["tempered", "coordinates", "coordinates of rows", "tethered", "tethered by rows", "annealed"]
)
def test_derivatives_of_a_derived_energy_follow_the_chain_rule(name):
    """By the formulas of the Gaussian within, by autograd, and by the closed form of the curvature."""
    precision = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    inner = gaussian_energy(torch.tensor([0.3, -1.0]).double(), precision)

    def known(x, v):
        grad = (x - inner.mean) @ inner.precision
        return inner(x), grad, torch.einsum("kbi,ij,kbj->b", v, inner.precision, v)

    x = torch.randn(5, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    v = torch.randn(3, 5, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    energy = made(inner)[name]
    by_formula = energy_and_grad(energy, x)
    slow = made(lambda z: inner(z))[name]
    by_autograd = energy_and_grad(slow, x, create_graph=True)
    for one, other in zip(by_formula, by_autograd, strict=True):
        assert torch.allclose(one, other.detach(), atol=1e-12)
    bend = score_and_curvature(slow, x, v)[2]
    inner.derivatives = known
    if name == "annealed":
        two = 2 * torch.eye(2, dtype=torch.float64)
        energy.base.derivatives = lambda x, v: (energy.base(x), (x - 1) @ two, 2 * v.square().sum((0, 2)))
    if name != "tempered":
        assert energy.derivatives(x, v) is not None
    assert torch.allclose(score_and_curvature(energy, x, v)[2], bend, atol=1e-12)


@pytest.mark.parametrize(
    "kind", ["labels", "levels", "anchors", "labels within", "none, then labels", "labels, then none"]
)
def test_hot_replicas_that_keep_to_other_values_are_refused(kind, given):
    """A hot replica stays where the law of its label is; the chains may not meet those of another label."""
    energy, x, y, sigma = given
    one, other = {
        "labels": (energy.given(y=y), energy.given(y=y.flip(0))),
        "levels": (energy.given(sigma=sigma), energy.given(sigma=sigma.flip(0))),
        "anchors": (Tethered(energy, x, 0.5), Tethered(energy, x.flip(0), 0.5)),
        "labels within": (Tempered(energy, 2.0).given(y=y), Tempered(energy, 2.0).given(y=y.flip(0))),
        "none, then labels": (energy, energy.given(y=y)),
        "labels, then none": (energy.given(y=y), energy),
    }[kind]
    generator = torch.Generator().manual_seed(3)
    sampler = Tempering(
        1.0, steps=2, replicas=3, max_temperature=4.0, step_size=0.8, target_acceptance=None, adapt_rate=0.0
    )
    chain = sampler(one, x, {}, generator=generator)
    assert sampler.begin(one, x, generator).keys() == chain.state.keys()
    chain = sampler(one, chain.x, chain.state, generator=generator)
    with pytest.raises(
        UserError, match="its hot replicas keep to the labels, noise levels or anchors of the call before"
    ):
        sampler(other, chain.x, chain.state, generator=generator)
    fewer = sampler(
        other.rows(torch.arange(4)) if other is not energy else energy, x[:4], chain.state, generator=generator
    )
    assert fewer.state["hot"].shape == (2, 4, D), "a batch of another size begins its replicas anew"
    assert ("values" in fewer.state) is (other is not energy)
