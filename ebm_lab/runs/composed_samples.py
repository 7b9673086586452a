"""Draw samples of a composition: by one sampler from noise, or by chains at each noise level in turn."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Generator, Tensor

from ebm_lab.core.choice import Choice
from ebm_lab.core.errors import UserError
from ebm_lab.core.eval_view import walk
from ebm_lab.core.features import features_of
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.registry import build, find, names
from ebm_lab.models.level_product import LevelProduct
from ebm_lab.runs.composition import Composition
from ebm_lab.runs.loaded import LoadedRun

AT_EACH_LEVEL = {"step_size": 0.6, "adapt_rate": 0.1}
"""Settings of the MALA that runs at each level by default: lengths are in units of sigma, and chains are short."""


class Drawn(NamedTuple):
    """x: (n, *shape) samples in the first run's space; metrics: the sampler's last; steps: taken from the start."""

    x: Tensor
    metrics: dict[str, float]
    steps: int
    sampler: str


def sampler_values(runs: list[LoadedRun], made: Composition, name: str | None, yaml: Any) -> dict[str, Any]:
    """Return the settings of the sampler: those of `name`, or by default those of the first run's evaluation sampler.

    A composition of models of many noise levels is sampled at each level by MALA, one of score networks by annealed
    Langevin. yaml: returns the settings of a sampler's YAML file by its name.
    """
    by_level, energy = "levels" in features_of(made.model), "energy" in features_of(made.model)
    if name is None and by_level:
        name = "mala" if energy else "annealed_langevin"
        return {**yaml(name), **(AT_EACH_LEVEL if energy else {"denoise": False})}
    own = runs[0].config.get("evaluation_sampler") or runs[0].config.get("sampler") or {}
    if name is None and own.get("name", "none") != "none" and "stationary" in _offers(own["name"]):
        return {k: v for k, v in own.items() if k != "kernel" or v is not None}
    values = yaml(name or "hmc")
    return {**values, "denoise": False} if by_level and "denoise" in values else values


def _offers(name: str) -> frozenset[str]:
    """Return the features of a sampler, which do not depend on its settings."""
    return Choice("sampler", name, "sampler", find("sampler", name), {}).offers or frozenset()


def check_sampler(made: Composition, values: Mapping[str, Any]) -> None:
    """Raise UserError for a sampler that does not suit the composition."""
    name, by_level = values["name"], "levels" in features_of(made.model)
    offers = _offers(name)
    keeping = sorted(n for n in names("sampler") if "stationary" in _offers(n))
    if by_level and "energy" not in features_of(made.model) and name != "annealed_langevin":
        raise UserError(f"sampler={name}: a product of score networks has no energy; allowed: annealed_langevin")
    if by_level and "stationary" not in offers and name != "annealed_langevin":
        raise UserError(
            f"sampler={name}: follows the diffusion, and the levels of a composition are none; allowed: "
            f"annealed_langevin, {', '.join(keeping)}"
        )
    if by_level and values.get("denoise"):
        raise UserError(
            "sampler.denoise=true: Tweedie's formula is for data blurred by the level, and a composed level is not "
            "that; allowed: false"
        )
    if not by_level and "stationary" not in offers:
        raise UserError(
            f"sampler={name}: goes down noise levels, which this composition has none of; allowed: {', '.join(keeping)}"
        )


def draw(made: Composition, values: Mapping[str, Any], n: int, steps: int, generator: Generator) -> Drawn:
    """Draw n samples; steps: of the sampler in all, shared equally among the levels where there are many."""
    check_sampler(made, values)
    model, name = made.model, values["name"]
    if not ("levels" in features_of(model) and "stationary" in _offers(name)):
        sampler: Sampler = build("sampler", values, "sampler", scale=made.scale)
        law = sampler.start(model) or made.start
        return _walked(sampler, model, law.sample(n, generator), sampler.total(model) or steps, generator, name)
    model = cast(LevelProduct, model)
    x, taken, metrics = model.prior().sample(n, generator), 0, {}
    for rung in range(model.ladder.levels):
        sigma = model.ladder.rung(rung)
        sampler = build("sampler", values, "sampler", scale=sigma)
        here = -(-steps // model.ladder.levels)
        x, metrics, more, _ = _walked(sampler, model.given(sigma=sigma), x, here, generator, name)
        taken += more
    return Drawn(x, {**metrics, "levels": model.ladder.levels, "sigma": model.ladder.sigma_min}, taken, name)


def _walked(sampler: Sampler, energy: Any, x: Tensor, steps: int, generator: Generator, name: str) -> Drawn:
    *_, (taken, x, metrics) = walk(sampler, energy, x, steps, generator)
    if not bool(x.isfinite().all()):
        raise UserError(f"sampler={name}: the chains left the numbers; give a smaller sampler.step_size")
    return Drawn(x.detach(), {k: float(v) for k, v in metrics.items() if torch.as_tensor(v).numel() == 1}, taken, name)
