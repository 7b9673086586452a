"""Turn Hydra's errors into one line that names the key, the value, what is allowed and what was probably meant."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebm_lab.cli.grammar import group_of
from ebm_lab.cli.quoting import quoted
from ebm_lab.core.errors import UserError, did_you_mean, resembles

PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
    "ray_aws": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}
"""The package to install for each of Hydra's launchers and sweepers."""
FEW = 3
"""The largest number of alternatives that are written out as they are typed."""


def no_such_option(group: str, given: str, allowed: Sequence[str], said: str) -> UserError:
    """Return the error for an option that does not exist; `said` is Hydra's text, which lists what is installed."""
    installed = re.findall(r"^\t(\w+)$", said.partition("Available options in")[2].partition("Config search")[0], re.M)
    allowed = sorted({*allowed, *installed})
    missing = PLUGINS.get(given) if group.startswith("hydra/") else None
    if missing:
        return UserError(f"{group}={given}: not installed here: pip install {missing}; allowed: {', '.join(allowed)}")
    listed = ", ".join(allowed) or "nothing, for this group has no options"
    return UserError(f"{group}={given}: no such option; allowed: {listed}{did_you_mean(given, allowed)}")


def several(override: str, default: Any) -> UserError:
    """Return the error for comma-separated values without -m; `default` is the key's value without the override."""
    key, _, value = override.partition("=")
    if isinstance(default, list | tuple):
        listed = shlex.quote(f"{key}=[{value}]")
        return UserError(f"{override}: write a list in brackets: {listed}; with -m, each value is a run of its own")
    text = f"{override}: several values are a sweep, with a run for each: add -m"
    if default is None or isinstance(default, str):
        text += f"; put one value with a comma in it into quotes: {shlex.quote(f'{key}={quoted(value)}')}"
    return UserError(text)


def other(said: str, overrides: Sequence[str]) -> UserError:
    """Return the error for any other text of Hydra's: its first line, with the override that it concerns."""
    line = said.strip().splitlines()[0]
    again = re.search(r"Could not append to config\. An item is already at '([\w.@/]+)'", line)
    if again:
        given = _override(again[1], overrides) or f"+{again[1]}"
        return UserError(f"{given}: '{again[1]}' exists already; write an existing setting without the '+'")
    unresolved = re.search(r"Interpolation key '([^']+)' not found", line)
    if unresolved:
        given = next((o for o in overrides if "${" in o and unresolved[1] in o), None)
        variable = f"; write the shell's variable without quotes around it, or as ${{oc.env:{unresolved[1]}}}"
        if given:
            return UserError(f"{given}: ${{{unresolved[1]}}} is not a key of the config{variable}")
    twice = re.search(r"Multiple values for ([\w/]+)", line)
    if twice:
        given = [o for o in overrides if o.partition("=")[0] == twice[1]]
        if not given:
            line = f"- override /{twice[1]}: <option>"
            return UserError(f"{twice[1]}: a YAML chooses it a second time; write in its defaults list: {line}")
        return UserError(f"{' '.join(given)}: given more than once; choose one")
    return UserError(line)


def unknown_key(key: str, overrides: Sequence[str], known: Mapping[str, Any], folders: Sequence[Path]) -> UserError:
    """Return the error for a setting that the composed config `known` lacks, with the options that have it."""
    given = _override(key, overrides) or key
    full = given.partition("=")[0].lstrip("+~").replace("/", ".")
    parts = full.split(".")
    hint = ""
    if parts[0] == "evaluation" and len(parts) > 1:
        hint = _evaluation(parts[1], known, folders)
    elif len(parts) > 1 and (having := owners(group_of(parts[0]), parts[1], folders)):
        hint = f", for '{parts[1]}' belongs to {_choices(parts[0], having)}"
    keys, parent = _flat(known), full
    while parent := parent.rpartition(".")[0]:
        if any(k.startswith(f"{parent}.") for k in keys):
            break
    siblings = sorted(k for k in keys if k.rpartition(".")[0] == parent and k != "hydra")
    names = ", ".join(k.rpartition(".")[2] for k in siblings)
    where = f" in {parent}" if parent else ""
    plain = full.lower().replace("-", "_")
    elsewhere = "" if hint or resembles(plain, siblings) else somewhere(full, known, folders)
    near = "" if hint else elsewhere or did_you_mean(plain, keys)
    return UserError(f"{given.lstrip('+')}: unknown key{hint}; allowed{where}: {names}{near}")


def owners(group: str, setting: str, folders: Iterable[Path]) -> list[str]:
    """Return the options of `group` whose YAML has `setting`."""
    found = set()
    for file in (f for d in folders for f in (d / group).glob("*.yaml")):
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(values, dict) and setting in values and setting not in ("name", "defaults"):
            found.add(file.stem)
    return sorted(found)


def _choices(group: str, options: Sequence[str]) -> str:
    """Write a few options as they are typed, many as a list."""
    return f"{group}={', '.join(options)}" if len(options) > FEW else " or ".join(f"{group}={o}" for o in options)


def somewhere(setting: str, known: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Suggest the group of a setting that was given without one."""
    if "." in setting:
        return ""
    here = [k for k in _flat(known) if k.endswith(f".{setting}") and not k.startswith(("hydra.", "evaluation."))]
    if here:
        return "; did you mean '" + "' or '".join(here[:FEW]) + "'?"
    for group in ("objective", "sampler", "dataset", "energy", "optim", "logger"):
        options = owners(group, setting, folders)
        if options:
            return f"; did you mean '{group}.{setting}', which belongs to {_choices(group, options)}?"
    return ""


def _evaluation(name: str, known: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Say how to add an evaluation that the run lacks to those that it has."""
    if name in known["evaluation"] or not any((d / "evaluation" / f"{name}.yaml").is_file() for d in folders):
        return ""
    added = shlex.quote(f"evaluation=[{','.join([*known['evaluation'], name])}]")
    return f", for '{name}' is not among the run's evaluations; add it: {added}"


def _override(key: str, overrides: Sequence[str]) -> str | None:
    """Return the last override of `key` or of something in it."""
    found = None
    for override in overrides:
        name = override.partition("=")[0].lstrip("+~").replace("/", ".")
        if name == key.replace("/", ".") or name.startswith(key.replace("/", ".") + "."):
            found = override
    return found


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    keys = [f"{prefix}{k}" for k in node]
    return keys + [k for name, child in node.items() for k in _flat(child, f"{prefix}{name}.")]
