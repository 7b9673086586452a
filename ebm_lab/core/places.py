"""Settings that are paths: a run records them as absolute paths, and they can be changed if its data have moved.

A component marks a setting as a path by the type `path: Place`; plugins can do the same.
"""

import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import PACKAGES, find
from ebm_lab.core.settings import annotations_of


class Location:
    """Marks a setting as a path."""


Place = Annotated[str, Location()]
"""A path, absolute or relative to the directory from which the run was started."""


def places_of(kind: str, name: object) -> list[str]:
    """Return the settings of a component that are paths; none if no such component is known."""
    try:
        hints = annotations_of(find(kind, str(name)))
    except UserError:
        return []
    return [setting for setting, hint in hints.items() if _is_path(hint)]


def _is_path(hint: Any) -> bool:
    own = any(isinstance(m, Location) for m in getattr(hint, "__metadata__", ()))
    return own or any(map(_is_path, typing.get_args(hint)))


def absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with absolute paths, including `output_dir` and the data sets that evaluations name."""
    made = {**config, "output_dir": _absolute(config.get("output_dir"))}
    for kind in PACKAGES:
        node = config.get(kind)
        if kind == "evaluation":
            made[kind] = {name: _component(kind, values) for name, values in (node or {}).items()}
        elif kind == "logger" and node and "name" not in node:  # several, by name
            made[kind] = {n: _component(kind, v) if isinstance(v, Mapping) else v for n, v in node.items()}
        elif isinstance(node, Mapping):
            made[kind] = _component(kind, node)
    return made


def _component(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    places = places_of(kind, values.get("name"))
    made = {key: _absolute(value) if key in places else value for key, value in values.items()}
    for key, value in made.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
            made[key] = [_component("dataset", v) for v in value]
    return made


def _absolute(value: Any) -> Any:
    """Make a path absolute, or each of a list; leave `auto`, ~/... and URLs as they are."""
    if isinstance(value, list):
        return [_absolute(v) for v in value]
    if not isinstance(value, str) or value in ("", "auto") or value.startswith("~") or "://" in value:
        return value
    return str(Path(value).absolute())


def moved(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with its data at the paths in `changes`, {"path": ...}.

    Evaluations that named the old path get the new one.
    """
    own = dict(config.get("dataset") or {})
    allowed = [key for key in places_of("dataset", own.get("name")) if key in own]
    for key, value in changes.items():
        if key not in allowed:
            names = ", ".join(f"dataset.{name}" for name in allowed) or f"nothing of dataset '{own.get('name')}'"
            raise UserError(f"dataset.{key}={value}: can't be changed for an existing run; allowed: {names}")
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"dataset.{key}={value}: must be a path")
    new = {key: _absolute(os.fspath(value)) for key, value in changes.items()}
    evaluation = _replace_paths(config.get("evaluation"), {key: (own[key], value) for key, value in new.items()})
    return {**config, "dataset": {**own, **new}, "evaluation": evaluation}


def _replace_paths(node: Any, changes: Mapping[str, tuple[Any, Any]]) -> Any:
    if isinstance(node, list):
        return [_replace_paths(item, changes) for item in node]
    if not isinstance(node, Mapping):
        return node
    kept = {key: _replace_paths(value, changes) for key, value in node.items()}
    return {k: changes[k][1] if k in changes and value == changes[k][0] else value for k, value in kept.items()}
