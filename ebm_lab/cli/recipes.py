"""Find the recipe tuned for an objective and a kind of data, and select the parts that apply to the run's choices.

`configs/recipe/<domain>/<objective>.yaml` is one file:

    steps: 3000                     # plain values always apply
    choose: {sampler: hmc}          # options of groups, unless an experiment or the command line chooses them
    when:                           # values that apply only under a choice
      sampler=langevin:
        sampler: {step_size: 0.22}
      optim=adam, energy=conv|resnet:
        optim: {lr: 0.001}

Later sections of the file override earlier ones. The recipe overrides the options of groups; experiments and the
command line override the recipe.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ebm_lab.cli.grammar import SLOTS
from ebm_lab.core.errors import UserError

FIXED = ("gaussian", "dkef")
"""Energies to which no recipe applies: recipes were tuned for networks, and these are fixed families."""
POINTS, IMAGES = "mlp|noise_mlp|score_mlp", "conv|resnet|noise_conv|noise_unet|score_unet"
BEFORE = re.compile(rf"(?P<objective>\w+?)_(?:(?P<points>{POINTS})|(?P<images>{IMAGES}))")
"""Old names of recipes, from when there was one for each pair of objective and energy."""


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """Find the file of `recipe=<name>` in the first folder that has it; None if none has."""
    return next((f for d in folders if (f := d / "recipe" / f"{name}.yaml").is_file()), None)


def renamed(name: str, folders: Sequence[Path]) -> str:
    """Translate an old name of a recipe: 'pcd_mlp' -> 'points/pcd'."""
    found = BEFORE.fullmatch(name)
    if found is None or find(name, folders):
        return name
    now = f"{'points' if found['points'] else 'images'}/{found['objective']}"
    return now if find(now, folders) else name


def read(file: Path) -> dict[str, Any]:
    """Read a recipe. Raises UserError if it can't be read."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: can't be read as YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold keys with values")
    return values


def conditional(values: Mapping[str, Any]) -> bool:
    """Return whether a recipe has `when` or `choose`, which Hydra itself can't read."""
    return bool({"when", "choose"} & values.keys())


def choose(file: Path) -> dict[str, Any]:
    """Return the options that a recipe chooses as a defaults list; an empty dict if it chooses none."""
    values = read(file)
    if "defaults" in values:
        raise UserError(f"{file}: a recipe chooses options by 'choose: {{<group>: <option>}}', not by 'defaults'")
    chosen = values.get("choose") or {}
    if not isinstance(chosen, dict) or not all(isinstance(option, str) for option in chosen.values()):
        raise UserError(f"{file}: choose={chosen}: must be of the form {{<group>: <option>}}")
    group = {slot: f"{SLOTS[slot]}@{slot}" for slot in SLOTS}
    overrides = [{f"override /{group.get(slot, slot)}": option} for slot, option in chosen.items()]
    return {"defaults": ["_self_", *overrides]} if overrides else {}


def assemble(file: Path, choices: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    """Collect the values of a recipe that apply under these choices.

    choices: the option of each group and nested place; names: the name of the component there.
    """
    values = read(file)
    merged = OmegaConf.create({k: v for k, v in values.items() if k not in ("when", "choose")})
    for condition, section in sections(file, values):
        if all(_holds(file, slot, allowed, choices, names) for slot, allowed in condition.items()):
            merged.merge_with(section)
    whole = OmegaConf.to_container(merged)
    assert isinstance(whole, dict)
    return {str(k): v for k, v in whole.items()}


def by_pair(choices: Mapping[str, str], folders: Sequence[Path]) -> list[str]:
    """Return the overrides for a user's own recipes under old names, <objective>_<energy>."""
    pair = f"{choices.get('objective')}_{choices.get('energy')}"
    names = {"": pair, **{f"/{g}": f"{choices.get(g)}_{pair}" for g in ("sampler", "optim")}}
    return [f"{'+' * bool(g)}recipe{g}={name}" for g, name in names.items() if find(f"{g}/{name}".lstrip("/"), folders)]


def sections(file: Path, values: Mapping[str, Any]) -> Iterator[tuple[dict[str, list[str]], dict[str, Any]]]:
    """Yield the conditions of a recipe with their values; nested ones follow the one that contains them."""
    yield from _sections(file, values.get("when") or {}, {})


def _sections(
    file: Path, when: Any, outer: Mapping[str, list[str]]
) -> Iterator[tuple[dict[str, list[str]], dict[str, Any]]]:
    for text, inner in when.items() if isinstance(when, dict) else [(when, None)]:
        parts = [part.strip() for part in str(text).split(",")]
        if not isinstance(inner, dict) or not all(re.fullmatch(r"[\w.]+=\w+(\|\w+)*", part) for part in parts):
            raise UserError(f"{file}: when: '{text}' must be of the form <group>=<option>: {{<key>: <value>}}")
        condition = {**outer, **{slot: options.split("|") for slot, options in (p.split("=") for p in parts)}}
        yield condition, {k: v for k, v in inner.items() if "=" not in str(k)}
        yield from _sections(file, {k: v for k, v in inner.items() if "=" in str(k)}, condition)


def _holds(file: Path, slot: str, allowed: Sequence[str], choices: Mapping[str, str], names: Mapping[str, str]) -> bool:
    if slot not in choices and slot not in SLOTS:
        raise UserError(f"{file}: when: '{slot}={'|'.join(allowed)}': there is no group of that name")
    return choices.get(slot) in allowed or names.get(slot) in allowed
