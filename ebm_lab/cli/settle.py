"""Resolve what depends on all other choices: the domain of a user's own data set, and the recipe.

The choices are composed once without either; the overrides that follow from them are added to the user's, and
everything is composed again.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ebm_lab.cli import recipes
from ebm_lab.cli.commands import importing_from_here
from ebm_lab.cli.grammar import place
from ebm_lab.cli.own_hydra import ASSEMBLED, compose_apart
from ebm_lab.cli.quoting import quoted
from ebm_lab.cli.typed import first_job

_looked_at: dict[str, str] = {}
"""Domains of the data sets that this process has built to find them out, by their settings."""


@dataclass(frozen=True)
class Source:
    """The config `name` of the directory `primary`; its YAMLs may also come from the directories `extra`."""

    primary: Path
    extra: Sequence[Path] = ()
    name: str = "train"

    @property
    def folders(self) -> list[Path]:
        return [self.primary, *self.extra]

    def compose(self, overrides: Sequence[str], recipe: Mapping[str, Any] | None = None) -> DictConfig:
        """Compose these overrides, with Hydra's own node."""
        own = [o for o in overrides if not o.startswith("hydra.searchpath=")] if self.extra else [*overrides]
        paths = ",".join(quoted(f"file://{d.resolve()}") for d in self.extra)
        return compose_apart(
            self.primary, self.name, [*own, *([f"hydra.searchpath=[{paths}]"] if paths else [])], recipe
        )


@dataclass
class Settled:
    """Overrides for Hydra, the content of `recipe=assembled` if it is among them, and notes for the user."""

    overrides: list[str]
    recipe: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    sweep: bool = False


def settle(source: Source, overrides: Sequence[str], groups: Sequence[str], sweep: bool | None = None) -> Settled:
    """Resolve the domain and the recipe of a run; of a sweep the domain only, for its jobs resolve their own recipes.

    groups: the config groups, whose choices decide; sweep: whether this is a sweep, None to find out. Raises UserError,
    and Hydra's and OmegaConf's errors.
    """
    settled = Settled([*overrides], sweep=bool(sweep))
    if any(o.startswith("resume=") and o not in ("resume=null", "resume=auto") for o in overrides):
        return settled  # the resumed run has its own config
    first = [first_job(o) if sweep else o for o in overrides if decides(o, groups)]
    config = source.compose(first)
    settled.sweep = str(config.hydra.mode).endswith("MULTIRUN") if sweep is None else sweep
    data = [o for o in overrides if o.partition("=")[0].lstrip("+").startswith("dataset")]
    values = [o for o in data if not decides(o, groups)]
    one = not settled.sweep or all(first_job(o) == o for o in data)  # otherwise each job looks at its own data set
    if one and _choices(config).get("domain") == "auto" and (domain := look(source.compose([*first, *values]))):
        first, settled.overrides = [f"domain={domain}", *first], [f"domain={domain}", *settled.overrides]
        config = source.compose(first)
    return settled if settled.sweep else _with_recipe(source, settled, first, config)


def _with_recipe(source: Source, settled: Settled, first: Sequence[str], config: DictConfig) -> Settled:
    """Add the recipe of the choices in `config`, which the overrides `first` composed."""
    choices = _choices(config)
    asked, objective, domain = (choices.get(k) or "none" for k in ("recipe", "objective", "domain"))
    file = recipes.find(f"{domain}/{objective}" if asked == "auto" else asked, source.folders)
    if asked == "auto" and (earlier := recipes.by_pair(choices, source.extra)) and file is None:
        settled.overrides = [*earlier, *settled.overrides]
    elif asked == "auto" and file is None:
        line = f"recipe: nothing was tuned for objective={objective} on domain={domain}; its settings are the defaults"
        settled.notes.append(line)
    if asked == "auto" and choices.get("energy") in recipes.FIXED:
        return settled
    if file is None or (asked != "auto" and "/" not in asked and not recipes.conditional(recipes.read(file))):
        return settled  # Hydra reads it, or reports that it does not exist
    if chosen := recipes.choose(file):
        config = source.compose(_assembled(first), chosen)
    settled.recipe = chosen | recipes.assemble(file, _choices(config), _names(config))
    settled.overrides = _assembled(settled.overrides)
    return settled


def _assembled(overrides: Sequence[str]) -> list[str]:
    """Replace the choice of the recipe by `recipe=assembled`."""
    return [*(o for o in overrides if o.partition("=")[0] != "recipe"), f"recipe={ASSEMBLED}"]


def decides(override: str, groups: Sequence[str]) -> bool:
    """Return whether `override` chooses an option, or says where options are."""
    key = override.partition("=")[0].lstrip("+~")
    choice = key in groups or "@" in key or ("/" in key and not key.startswith("hydra/"))
    return choice or key in ("plugins", "hydra.mode", "hydra.searchpath")


def _choices(config: DictConfig) -> dict[str, str]:
    """Return the option of each group and of each nested place."""
    found = {str(k): v for k, v in config.hydra.runtime.choices.items() if v is not None}
    return {place(k): v for k, v in found.items() if "@" in k} | {k: v for k, v in found.items() if "@" not in k}


def _names(config: DictConfig) -> dict[str, str]:
    """Return the name of the component at each group and nested place."""
    nodes = {slot: OmegaConf.select(config, slot) for slot in _choices(config) if "/" not in slot}
    return {slot: str(n.get("name")) for slot, n in nodes.items() if isinstance(n, DictConfig)}


def look(config: DictConfig) -> str | None:
    """Build a data set whose YAML names no domain, and return its domain; None if it can't be built.

    The run then reports why.
    """
    with suppress(Exception):
        values = OmegaConf.to_container(config.dataset, resolve=True)
        plugins = [str(p) for p in config.get("plugins") or ()]
        known = json.dumps([values, plugins], sort_keys=True)
        if known not in _looked_at:
            _looked_at[known] = _domain(values, plugins)
        return _looked_at[known]
    return None


def _domain(values: Any, plugins: list[str]) -> str:
    from ebm_lab.core.registry import build
    from ebm_lab.datasets._training_labels import few_labels
    from ebm_lab.runs.settings import import_plugins

    with importing_from_here():
        import_plugins(plugins)
        dataset = build("dataset", few_labels(values)[0])
    if getattr(dataset, "space", "continuous") != "continuous":
        return "discrete"
    return "images" if len(dataset.event_shape) == 3 else "points"
