"""What annealed importance sampling and sequential Monte Carlo have in common: the base, and the kernels they take."""

from typing import Any, Literal, NamedTuple

import torch

from ebm_lab.core.discrete import known_sites
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.features import Child, Offers, features_of
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.core.registry import build
from ebm_lab.distributions.product import product_law
from ebm_lab.evaluation._annealed_importance import Whitened
from ebm_lab.evaluation._annealed_sites import AtSites
from ebm_lab.evaluation._kernels import for_data, instead, layers_at_once, needed_of_data


def on_the_path(offers: Offers) -> Offers:
    """Return the features of p_b for those of the energy."""
    return offers & {"energy", "score"} | ({"conditionals"} if "annealed" in offers else frozenset())


EXACT = "one without a Metropolis test leaves no p_b exactly invariant, and E[w] is then not Z"
TRANSITION = Child(
    "transition",
    must={"exact": EXACT},
    sees=on_the_path,
    wiring={"scale": 1.0},
    replaced=frozenset({"continuous"}),
)
"""How the configured kernel is used; discrete data have another in its place where it moves real numbers."""
Shape = Literal["covariance", "diagonal", "isotropic"]
LAYERS: dict[str, Any] = {"name": "block_gibbs", "steps": 5}


class Kernels(NamedTuple):
    """adaptive: for the pilot run; fixed: for the runs that count; notes: lines for the user."""

    adaptive: Any
    fixed: Any
    notes: list[str]


def kernels(transition: Any, view: EvalView, path: str) -> Kernels:
    """Return the transition for the data; `path`: of its settings.

    In the place of a kernel of real numbers, an energy with hidden units has block_gibbs, along its own path.
    """
    discrete = known_sites(view.dataset) is not None
    if layers_at_once(transition) and not view.has("annealed"):
        raise UserError(
            f"{path}={type(transition).__name__}: draws many sites at once, and p_b has no formula for that: choose "
            f"gibbs, gwg, locally_balanced or dmala"
        )
    if discrete and view.has("annealed") and "continuous" in needed_of_data(transition):
        kernel = build("sampler", LAYERS, path, dataset=view.dataset)
        does = f"block_gibbs, {LAYERS['steps']} sweeps a call, along the path of the hidden units"
        return Kernels(kernel, kernel, [instead(transition, "bits", path, does)])
    kernel, notes = for_data(transition, view, path)
    return Kernels(kernel, kernel if discrete else kernel.at_fixed_steps(), notes)  # type: ignore[attr-defined]


def unfit(dataset: Dataset) -> str | None:
    """Return why these data have no base; None if they have one."""
    served = "continuous" in features_of(dataset) or known_sites(dataset) is not None
    return None if served else "the data are discrete, and neither bits nor one-hot categories"


def fit_model(
    energy: EnergyFn, dataset: Dataset, shape: Shape, floor: float, hidden: bool = False
) -> Whitened | AtSites:
    """Return the energy with its base: of discrete data independent sites, else the Gaussian of fit_base. `hidden`:
    along the path of its hidden units."""
    sites = known_sites(dataset)
    if sites is not None:
        return AtSites(energy, sites, product_law(dataset), hidden)
    return fit_base(energy, dataset, shape, floor)


def fit_base(energy: EnergyFn, dataset: Dataset, shape: Shape, floor: float) -> Whitened:
    """The energy in the coordinates of N(mean, S), S the training data's covariance (of 20,000 points at most), its
    diagonal or its mean variance, plus floor * scale^2 * I: pixels that never change would leave it singular."""
    flat = subset(dataset.train, 20_000).flatten(1).double()
    d, spread = flat.shape[1], flat.T.cov().view(flat.shape[1], -1)
    eye = torch.eye(d, dtype=flat.dtype, device=flat.device)
    if shape != "covariance":
        spread = spread * eye if shape == "diagonal" else spread.diagonal().mean() * eye
    factor = torch.linalg.cholesky(spread + floor * dataset.scale**2 * eye)
    return Whitened(energy, dataset.mean, factor.to(dataset.mean))


def check_transition(kernel: Any, path: str) -> None:
    """Refuse a kernel of another law than p_b, of a mass of its own or that goes on adapting, and one that needs what
    p_b does not have; `path`: of its settings."""
    if "discrete" in needed_of_data(kernel):
        return
    mass = "identity" if kernel.widths is None else "diagonal"
    for name, value, allowed in (
        ("temperature", kernel.temperature, 1.0),
        ("mass", mass, "identity"),
        ("warmup", kernel.warmup, None),
    ):
        if value != allowed:
            raise UserError(
                f"{path}.{name}={value}: must be {'null' if allowed is None else allowed}: the "
                f"chains sample p_b itself, in the base's own coordinates, with steps that only the pilot run adapts"
            )
