"""Samplers of the library blackjax on the laws of scripts/sampling_laws.py, for scripts/sampling.py.

The densities are written again in jax; a test compares them with the lab's energies. As for the lab's samplers, all
chains begin at exact draws, share one step size and have the identity as mass matrix. blackjax's dual averaging, the
step size's part of its window adaptation, brings the mean acceptance of all chains to the target of the lab's YAML.
mclmc takes the medians over the chains of what `mclmc_find_L_and_step_size` chooses for each in a tenth of the steps,
three times. adjusted_mclmc has the leapfrog integrator, as in this lab; mclmc has the library's default, which takes
two gradients a step.

Step sizes are reported in the lab's units: mala adds step_size^2 / 2 times the gradient, and mclmc and adjusted_mclmc
move step_size sqrt(d).

Alberto Cabezas, Adrien Corenflos, Junpeng Lao and Remi Louf, BlackJAX: Composable Bayesian inference in JAX, 2024,
arXiv:2402.10797.
"""

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import blackjax  # pyright: ignore[reportMissingImports]
import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from blackjax.adaptation.step_size import dual_averaging_adaptation  # pyright: ignore[reportMissingImports]
from blackjax.mcmc.integrators import isokinetic_velocity_verlet  # pyright: ignore[reportMissingImports]

from scripts.sampling_laws import Cell, Law, axes, summary

jax.config.update("jax_enable_x64", True)

Density = Callable[[Any], Any]
"""The log density (d,) -> () of a law."""


def gaussian(condition: float, d: int = 10) -> Density:
    q, std = (jnp.asarray(value.numpy()) for value in axes(condition, d))
    return lambda x: -0.5 * jnp.sum((x @ q / std) ** 2)


def funnel(std: float = 1.5) -> Density:
    normal = jax.scipy.stats.norm.logpdf
    return lambda x: normal(x[0], 0, std) + jnp.sum(normal(x[1:], 0, jnp.exp(x[0] / 2)))


def two_modes(apart: float = 4.0, weight: float = 0.3) -> Density:
    def density(x: Any) -> Any:
        left = math.log(weight) - 0.5 * (x[0] + apart / 2) ** 2
        right = math.log(1 - weight) - 0.5 * (x[0] - apart / 2) ** 2
        return jnp.logaddexp(left, right) - 0.5 * x[1] ** 2

    return density


DENSITIES: dict[str, Density] = {
    "Gaussian, condition 1": gaussian(1),
    "condition 100": gaussian(100),
    "condition 10,000": gaussian(10_000),
    "funnel": funnel(),
    "two modes": two_modes(),
}


def build(name: str, density: Density, d: int, leapfrog: int, step_size: Any, length: Any) -> Any:
    """Return a sampler of blackjax for one chain in d dimensions. length: after which mclmc forgets its direction."""
    match name:
        case "mala":
            return blackjax.mala(density, step_size**2 / 2)
        case "barker":
            return blackjax.barker(density, step_size)
        case "hmc":
            return blackjax.hmc(density, step_size, jnp.ones(d), leapfrog)
        case "nuts":
            return blackjax.nuts(density, step_size, jnp.ones(d), max_num_doublings=10)
        case "mclmc":
            return blackjax.mclmc(density, L=length, step_size=step_size * d**0.5)
        case "adjusted_mclmc":
            return blackjax.adjusted_mclmc(
                density,
                step_size * d**0.5,
                integrator=isokinetic_velocity_verlet,
                integration_steps_params=(leapfrog,),
            )
    raise ValueError(name)


def gradients_of(name: str, info: Any) -> Any:
    """Return the gradients of a step, for each chain."""
    if name in ("hmc", "nuts", "adjusted_mclmc"):
        return info.num_integration_steps
    return 2 if name == "mclmc" else 1


def acceptance_of(name: str, info: Any) -> Any:
    """Return the acceptance of a step, for mclmc that of a Metropolis test which is not made."""
    return jnp.exp(jnp.minimum(-info.energy_change, 0)) if name == "mclmc" else info.acceptance_rate


class Chains:
    """Chains from the points x (chains, d)."""

    def __init__(self, name: str, density: Density, x: Any, leapfrog: int) -> None:
        chains, d = x.shape

        def step(number: int, states: Any, step_size: Any, length: Any) -> Any:
            keys = jax.random.split(jax.random.key(number), chains)
            states, info = jax.vmap(build(name, density, d, leapfrog, step_size, length).step)(keys, states)
            return states, acceptance_of(name, info).mean(), jnp.max(gradients_of(name, info))

        self.step, self.numbers = jax.jit(step), count(1)
        begin, keys = build(name, density, d, leapfrog, 0.1, 1.0).init, jax.random.split(jax.random.key(0), chains)
        self.states = jax.vmap(begin)(x, keys) if name == "mclmc" else jax.vmap(begin)(x)

    def advance(self, step_size: Any, length: float) -> tuple[Any, int]:
        """Move each chain by one step; return the mean acceptance, and the gradients of the chain that took most."""
        sizes = np.float64(step_size), np.float64(length)  # always of one type, so that jax compiles once
        self.states, acceptance, gradients = self.step(next(self.numbers), self.states, *sizes)
        return acceptance, int(gradients)


def adapted(chains: Chains, steps: int, target: float) -> float:
    """Move the chains `steps` times and return the step size at which their mean acceptance is the target."""
    begin, update, final = dual_averaging_adaptation(target)
    state, update = begin(0.1), jax.jit(update)
    for _ in range(steps):
        state = update(state, chains.advance(jnp.exp(state.log_step_size), math.inf)[0])
    return float(final(state))


def found_for_mclmc(chains: Chains, density: Density, steps: int) -> tuple[float, float]:
    """Return the medians of the step sizes and lengths that blackjax finds for each chain."""
    kernel = blackjax.mclmc.build_kernel()

    def find(state: Any, key: Any) -> Any:
        return blackjax.mclmc_find_L_and_step_size(
            kernel, steps, state, key, logdensity_fn=density, diagonal_preconditioning=False
        )[1]

    size, d = chains.states.position.shape
    params = jax.jit(jax.vmap(find))(chains.states, jax.random.split(jax.random.key(next(chains.numbers)), size))
    return float(jnp.median(params.step_size)) / d**0.5, float(jnp.median(params.L))


def measure(
    name: str, law: Law, density: Density, values: dict[str, Any], warmup: int, gradients: int, chains: int
) -> Cell:
    """Run chains of the sampler that has the lab's `name` for about `gradients` gradients each, after the warm-up.
    values: of the YAML of the lab's sampler."""
    x = jnp.asarray(law.draw(chains, torch.Generator().manual_seed(0)).numpy())
    run = Chains(name, density, x, values.get("leapfrog", 1))
    if name == "mclmc":
        step_size, length = found_for_mclmc(run, density, gradients // 2)
    else:
        step_size, length = adapted(run, warmup, values["target_acceptance"]), math.inf
    taken, draws, accepted = 0, [], []
    while taken < gradients:
        acceptance, evals = run.advance(step_size, length)
        taken += evals
        draws.append(torch.from_numpy(np.array(run.states.position)))
        accepted.append(float(acceptance))
    return summary(law, draws, taken, step_size, accepted)
