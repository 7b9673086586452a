"""Compose `configs/` with Hydra, and turn Hydra's errors into one line."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ebm_lab.cli import recipes
from ebm_lab.cli.complaints import no_such_option, other, several, unknown_key
from ebm_lab.cli.grammar import as_written, group_of, listed_loggers, place, rewritten
from ebm_lab.cli.quoting import check_form, written
from ebm_lab.cli.settle import Source, decides, settle
from ebm_lab.cli.typed import as_typed
from ebm_lab.core.errors import UserError, did_you_mean
from ebm_lab.core.registry import PACKAGES
from ebm_lab.runs.defaults import config_dir

COMPONENTS = (*PACKAGES, "guard")
CHOICES = ("domain", "architecture", "debug", "recipe", "experiment", "sweep")
GROUPS = (*COMPONENTS, *CHOICES)
NOTHING_CHOSEN = tuple(f"{sign}{group}=null" for group in ("debug", "experiment", "sweep") for sign in ("", "+", "++"))
"""Overrides that choose nothing: such a choice is absent by default, and Hydra can't parse its null."""
DOMAINS = ("points", "images", "discrete")
"""The kinds of data that recipes exist for, and on which defaults may depend."""
SAME = "same"
"""The option of `evaluation_sampler` by which the training's sampler also serves the evaluations."""
DATA_FILES = (".npy", ".npz", ".csv")


def options(group: str, extra: Iterable[Path] = ()) -> list[str]:
    """List the names of the YAML files of `group`, in `configs/` and in the directories `extra`."""
    folders = [Path(d) / group for d in (config_dir(), *extra)]
    found = {f.stem for d in folders for f in d.glob("*.yaml")}
    if group == "recipe":
        found |= {f"{domain}/{f.stem}" for domain in DOMAINS for d in folders for f in (d / domain).glob("*.yaml")}
    return sorted(found - ({SAME} if group == "sampler" else set()))


def options_at(slot: str, extra: Iterable[Path] = ()) -> list[str]:
    """List what can be chosen for a group or a nested place."""
    return [*options(group_of(slot), extra), *([SAME] if slot == "evaluation_sampler" else [])]


def where_data_lie(overrides: Sequence[str]) -> list[str]:
    """Put `++` before the data set's settings if `resume=<run>` is among the overrides.

    Hydra knows only the keys of the default data set; these settings go into the config of the resumed run.
    """
    resumed = any(o.startswith("resume=") and o not in ("resume=null", "resume=auto") for o in overrides)
    return [f"++{o}" if resumed and re.match(r"dataset\.\w+=", o) else o for o in overrides]


def compose_config(overrides: Sequence[str], directory: str | Path | None = None) -> dict[str, Any]:
    """Compose the config of `train.py` for these command-line overrides, as a plain dict."""
    return compose_run(overrides, directory)[0]


def compose_run(overrides: Sequence[str], directory: str | Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Compose as `compose_config` does; return the config and notes for the user about how it came about."""
    extra = [Path(directory)] if directory else []
    return settled(Source(config_dir(), extra), readable(overrides, extra), translations(overrides, extra))


def settled(source: Source, overrides: Sequence[str], notes: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Compose the config of one run with its domain and recipe; return it and `notes` followed by further notes."""
    try:
        found = settle(source, overrides, GROUPS, sweep=False)
        return plain(source.compose(found.overrides, found.recipe)), [*notes, *found.notes]
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise explain(error, overrides, source.extra) from None


def readable(overrides: Sequence[str], extra: Sequence[Path] = ()) -> list[str]:
    """Translate overrides for Hydra; reject in one line what it can't read or would drop silently."""
    check_form(overrides, {group: options(group, extra) for group in GROUPS})
    overrides = where_data_lie([renamed(o, extra) for o in overrides if o not in NOTHING_CHOSEN])
    check_choices(overrides, extra)
    given = rewritten(overrides, lambda group: options(group, extra))
    return as_typed(given, GROUPS, lambda some: composed([o for o in some if decides(o, GROUPS)], extra))


def renamed(override: str, extra: Sequence[Path] = ()) -> str:
    """Translate old names of recipes in an override; return any other override as it is."""
    key, _, given = override.partition("=")
    folders = [config_dir(), *extra]
    return f"recipe={','.join(recipes.renamed(g, folders) for g in given.split(','))}" if key == "recipe" else override


def translations(overrides: Sequence[str], extra: Sequence[Path] = ()) -> list[str]:
    """Return a line for each override whose option has been renamed."""
    return [f"{o}: is called {now} now" for o in overrides if (now := renamed(o, extra)) != o]


def composed(overrides: Sequence[str], extra: Sequence[Path] = ()) -> dict[str, Any]:
    """Compose these overrides as plain containers, with interpolations left unresolved."""
    config = Source(config_dir(), extra).compose(overrides)
    _leave_out_hydra(config)
    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def _leave_out_hydra(config: DictConfig) -> None:
    with open_dict(config):
        config.pop("hydra", None)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain containers with interpolations resolved; a missing value is an error."""
    _leave_out_hydra(config)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]}: missing; give it a value: {missing[0]}=...")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    check_packages(container)
    if container.get("evaluation_sampler") == {"name": SAME}:
        del container["evaluation_sampler"]
    return {str(k): v for k, v in container.items() if k not in ("hydra", *CHOICES)}


def check_packages(config: dict[Any, Any]) -> None:
    """Reject values that a YAML without its `# @package` line has put where nothing reads them."""
    loose = {k: v for k, v in (config.get("evaluation") or {}).items() if not isinstance(v, dict)}
    if loose:
        if "name" not in loose:
            key, value = next(iter(loose.items()))
            raise UserError(f"evaluation.{key}={value}: write a setting as evaluation.<name>.<key>=<value>")
        name = loose["name"]
        raise UserError(f"evaluation={name}: the first line of its YAML has to be: # @package evaluation.{name}")
    for group in COMPONENTS:
        if isinstance(given := config.get(group), str):
            line = f"- override /{group}: {given}"
            raise UserError(f"{group}: {given}: choose an option of a YAML by a line in its defaults list: {line}")
    for group in CHOICES:
        if isinstance(config.get(group), dict) and config[group]:
            first = "# @package _global_"
            raise UserError(f"{group}: its YAML sets {', '.join(config[group])}, and its first line has to be: {first}")


def check_choices(overrides: Sequence[str], extra: Iterable[Path] = ()) -> None:
    """Reject a group choice that Hydra would drop silently or can't read."""
    for override in overrides:
        group, _, given = override.lstrip("+~").partition("=")
        if group.endswith(".name") and group[:-5] in COMPONENTS:
            raise UserError(f"{override}: choose a component with all its settings: {written(group[:-5], given)}")
        if group == "dataset" and (given.endswith(DATA_FILES) or Path(given).is_dir()):
            kind = "image_folder" if Path(given).is_dir() else "array"
            raise UserError(
                f"{override}: no such option; for your own data write dataset={kind} {written('dataset.path', given)}"
            )
        if (loggers := listed_loggers(override)) is not None:
            _check_loggers(override, loggers, options("logger", extra), overrides)
        dropped = given == "null" or override.startswith("~")
        if group in (*COMPONENTS, "domain", "architecture", "evaluation_sampler") and dropped:
            raise UserError(f"{override}: must be one of {', '.join(options_at(group, extra))}")
        if override.startswith("~") and "." not in group and "/" not in group and "@" not in group:
            raise UserError(f"{override}: can't be left out; without it, '{group}' has its default")
        if (group == "recipe" or override == f"sampler={SAME}") and (
            unknown := sorted(set(given.split(",")) - set(options(group, extra)))
        ):
            allowed = options(group, extra)
            near = "; did you mean 'none'?" if given == "null" else did_you_mean(unknown[0], allowed)
            raise UserError(f"{override}: no such option; allowed: {', '.join(allowed)}{near}")


def _check_loggers(override: str, names: Sequence[str], allowed: Sequence[str], others: Sequence[str]) -> None:
    """Reject a list that names a logger twice or one that does not exist, and settings that name none of them."""
    for name in names:
        if name not in allowed:
            near = did_you_mean(name, allowed)
            raise UserError(f"{override}: no such option: {name}; allowed: {', '.join(allowed)}{near}")
        if names.count(name) > 1:
            raise UserError(f"{override}: names {name} twice; write each logger once")
    for given in others if len(names) > 1 else ():
        found = re.match(r"logger\.(\w+)", given)
        if found and found[1] not in names:
            forms = " or ".join(f"logger.{name}.{given.removeprefix('logger.')}" for name in names)
            raise UserError(f"{given}: one of several loggers has its settings under its name; write {forms}")


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Return the root key of each override: 'optim.lr=1' -> 'optim'."""
    return [place(key).split(".")[0].split("/")[0] for key in full_keys(overrides)]


def full_keys(overrides: Sequence[str]) -> list[str]:
    """Return the whole key of each override: 'optim.lr=1' -> 'optim.lr'."""
    return [o.key_or_group or "" for o in OverridesParser.create().parse_overrides(list(overrides))]


def explain(error: Exception, overrides: Sequence[str], extra: Sequence[Path] = ()) -> UserError:
    """Turn an error of Hydra or OmegaConf into a line that names the key, the value and what is allowed."""
    text, typed = as_written("\n".join(str(e) for e in _chain(error))), [as_written(o) for o in overrides]
    if isinstance(error, OverrideParseException):
        return UserError(
            f"{as_written(error.override or '')}: can't be read as key=value ({error.message.splitlines()[0]})"
        )
    sweep = re.search(
        r"Ambiguous value for argument '(.+?)'\n|Sweep parameters '(.+)' requires --multirun", text + "\n"
    )
    if sweep:
        given = sweep[1] or sweep[2]
        return several(given, _default(given, overrides, extra))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        where = f"{error.problem_mark.name}: line {error.problem_mark.line + 1}"
        return UserError(f"{where} can't be read as YAML ({error.problem})")
    group = re.search(r"Could not (?:find|load) '(hydra/\w+|\w+)/([^']+)'", text)
    if group:
        slots = [o.partition("=")[0] for o in typed if o.endswith(f"={group[2]}")]
        slot = next((s for s in slots if group_of(s) == group[1]), group[1])
        return no_such_option(slot, group[2], options_at(slot, extra), text)
    key = re.search(r"Could not (?:override|find) '?([\w./@-]+)|Key '([\w.]+)' is not in struct", text)
    if key:
        full = re.search(r"full_key: ([\w.]+)", text)
        return unknown_key(
            full[1] if full else key[1] or key[2], typed, _known(overrides, extra), [config_dir(), *extra]
        )
    return other(text, typed)


def _known(overrides: Sequence[str], extra: Sequence[Path]) -> dict[str, Any]:
    """Compose the group choices among `overrides`; if that fails, the default config."""
    choices = [o for o in overrides if o.split("=")[0] in GROUPS or "@" in o.split("=")[0]]
    for attempt in (choices, []):
        try:
            return composed(attempt, extra) | dict.fromkeys(CHOICES)
        except (HydraException, OmegaConfBaseException):
            continue
    return dict.fromkeys(GROUPS)


def _default(override: str, overrides: Sequence[str], extra: Sequence[Path]) -> Any:
    """Return the value of the override's key without the override; True for a group, where each value is one run."""
    key = override.partition("=")[0].lstrip("+")
    if key != "evaluation" and (key in GROUPS or "/" in key):
        return True
    found: Any = [] if key == "evaluation" else _known([o for o in overrides if o != override], extra)
    for part in key.split(".") if key != "evaluation" else ():
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
