"""Small runs that cover the registry: one for each option of the groups objective and sampler, and one for labels."""

from collections.abc import Sequence
from typing import Any

import yaml

from ebm_lab.cli.compose import compose_config, config_dir, options
from ebm_lab.core.registry import find

COMMON = ["logger=none", "evaluation=[]", "compile=off", "threads=1", "batch_size=32", "seed=0", "preprocess=none"]
POINTS = ["dataset=two_moons", "dataset.train=500", "dataset.held_out=100"]
BITS = ["dataset=random_bits", "dataset.bits=6", "dataset.train=500", "dataset.held_out=100"]
LEVELS = {"sigma": 0.1, "sigma_min": 0.05, "sigma_max": 2.0}
"""Noise levels in place of `auto`, by which objectives and energies would fit laws to the data with scikit-learn."""
SHORT = {"fce": ["objective.fit_steps=2"], "replica_exchange": ["sampler.steps=2"]}
"""Less work where a case would take long by its own settings."""
NONE = ("none", "same")
"""Options that choose no component."""


def cases() -> dict[str, list[str]]:
    """Return the overrides of each small run, by name."""
    found = {f"objective={o}": _of_objective(o) for o in options("objective")}
    found |= {f"sampler={s}": _of_sampler(s) for s in options("sampler") if s not in NONE}
    found["labels"] = [*POINTS, "objective=pcd", "energy=labelled_mlp", "objective.conditional=true"]
    return {name: [*COMMON, *overrides] for name, overrides in found.items()}


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config of these overrides, with LEVELS in place of each noise level that is left to the data."""
    config = compose_config(overrides)
    return config | {group: _levels(config[group]) for group in ("objective", "energy")}


def _levels(settings: dict[str, Any]) -> dict[str, Any]:
    nested = {k: _levels(v) for k, v in settings.items() if isinstance(v, dict)}
    return settings | nested | {k: v for k, v in LEVELS.items() if settings.get(k) == "auto"}


def _of_objective(option: str) -> list[str]:
    name, chosen = _component("objective", option), [f"objective={option}"]
    if option == "unbiased_cd" and _is_discrete("objective", name):
        return [*BITS, "energy=rbm", "sampler=block_gibbs", *chosen]
    return [*(BITS if _is_discrete("objective", name) else POINTS), *chosen, *SHORT.get(option, [])]


def _of_sampler(option: str) -> list[str]:
    name, chosen = _component("sampler", option), [f"sampler={option}"]
    offers = find("sampler", name).offers
    if _is_discrete("sampler", name):
        rbm = ["energy=rbm"] if option == "block_gibbs" else []
        return [*BITS, "objective=pcd", *rbm, *chosen, *SHORT.get(option, [])]
    return [*POINTS, f"objective={'pcd' if 'stationary' in offers else 'multi_dsm'}", *chosen]


def _component(kind: str, option: str) -> str:
    """Return the name of the component that an option chooses: its YAML's, or that of the YAML it builds on."""
    values = yaml.safe_load((config_dir() / kind / f"{option}.yaml").read_text(encoding="utf-8"))
    return (
        values["name"] if "name" in values else _component(kind, next(d for d in values["defaults"] if d != "_self_"))
    )


def _is_discrete(kind: str, name: str) -> bool:
    return any(need.feature == "discrete" for need in find(kind, name).needs)
