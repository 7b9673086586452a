"""blackjax beside the lab's samplers: equal targets, exact chains, and gradients counted as they are computed."""

import pytest
import torch

from scripts.sampling import WARMUP, defaults
from scripts.sampling_laws import LAWS, gaussian

pytest.importorskip("blackjax")

import jax
import jax.numpy as jnp
import numpy as np

from scripts import sampling_blackjax as peers

KERNELS = ("mala", "barker", "hmc", "nuts", "mclmc", "adjusted_mclmc")
SLOW = pytest.mark.slow


@pytest.mark.parametrize("title", LAWS)
def test_densities_are_those_of_the_lab(title, generator):
    law = LAWS[title]
    x = 2 * torch.randn(law.draw(200, generator).shape, generator=generator, dtype=torch.float64)
    theirs = jax.vmap(peers.DENSITIES[title])(jnp.asarray(x.numpy()))
    assert (torch.tensor(np.asarray(theirs)) + law.energy(x)).abs().max() < 1e-5


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW if n == "mclmc" else ()) for n in KERNELS])
def test_chains_move_and_keep_the_means_of_a_gaussian(name):
    """Coordinates and their squares within 4 standard errors; chains that stand still have 64 effective samples."""
    cell = peers.measure(name, gaussian(4, 2), peers.gaussian(4, 2), defaults(name), WARMUP.get(name, 0), 600, 64)
    assert cell.ess > 500 and cell.bias < 4 / cell.ess**0.5
    assert 600 <= cell.gradients < 640


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_are_counted_as_they_are_computed(name):
    evaluations = []

    def density(x):
        jax.debug.callback(lambda: evaluations.append(1))
        return -0.5 * jnp.sum(x**2)

    x, key = jnp.ones(2), jax.random.key(0)
    sampler = peers.build(name, density, 2, 5, 0.3, 1.0)
    state = sampler.init(x, key) if name == "mclmc" else sampler.init(x)
    jax.effects_barrier()
    evaluations.clear()
    _, info = jax.jit(sampler.step)(key, state)
    jax.effects_barrier()
    assert len(evaluations) == peers.gradients_of(name, info)
