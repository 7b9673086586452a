"""Reject settings by which Hydra would import or call the code that they name."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebm_lab.core.errors import UserError

NAMES_CODE = re.compile(r"_target_|pkg://|^[+~]*hydra(=|\.(callbacks|job_logging|hydra_logging))")
LAUNCHER = re.compile(r"hydra_plugins(\.[a-z_]+)+\.[A-Z]\w*Launcher|ebm_lab\.cli\.sweep\.Table")


def refuse_code(overrides: Sequence[str], extra: Iterable[Path] = ()) -> None:
    """Reject overrides, and YAMLs of the directories `extra`, by which Hydra would import or call code.

    A config may name registered components and plugins only.
    """
    for override in overrides:
        if NAMES_CODE.search(override):
            raise UserError(f"{override}: refused, for it names code to run; add your own components by plugins=[...]")
    for file in sorted(f for folder in extra for f in Path(folder).rglob("*.yaml")):
        try:
            found = named_code(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{file}: can't be read ({' '.join(str(error).split())[:120]})") from None
        if found:
            raise UserError(f"{file}: refused, for {found} names code to run; add your own components by plugins=[...]")


def named_code(node: Any) -> str | None:
    """Find the first key or text in a parsed YAML by which Hydra, or the logging it sets up, would import something."""
    if isinstance(node, str):
        return node if "pkg://" in node else None
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in ("()", "class") or (key == "_target_" and not LAUNCHER.fullmatch(str(value))):
            return f"{key}: {value}"
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return next(filter(None, map(named_code, parts)), None)
