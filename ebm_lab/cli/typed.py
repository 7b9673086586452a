"""Keep a value that looks like a number as text if its setting is a text: dataset.path=123, logger.group=007.

Hydra parses 007, 1e5, true or [1] without knowing the setting's type. Here the type decides: if the value that Hydra
would read does not fit it and the typed text does, the text is put in quotes before Hydra reads it.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pydantic
import yaml

from ebm_lab.cli.commands import importing_from_here
from ebm_lab.cli.quoting import parse, quoted


def as_typed(
    overrides: Sequence[str], groups: Sequence[str], compose: Callable[[list[str]], dict[str, Any]]
) -> list[str]:
    """Put quotes around the values that are meant as texts.

    groups: config groups, whose options are always texts; compose: composes overrides to a config with unresolved
    interpolations. Components are imported for their signatures only if a value is no text and replaces no number.
    """
    named = [_requoted(o, str) if o.partition("=")[0].lstrip("+") in groups else o for o in overrides]
    if not any(map(_text, named)):
        return named
    try:
        config = compose([first_job(o) for o in named if not _text(o)])
    except Exception:  # the same error is reported when everything is composed
        return named
    return [_requoted(o, _hint(o, config)) if _text(o) else o for o in named]


def _text(override: str) -> list[Any] | None:
    """Return the typed value, one entry for each value of a sweep, if Hydra reads any of them as no text; else None."""
    found = parse(override)
    if found is None or found.is_delete():
        return None
    values = found.value().list if found.is_choice_sweep() and found.value().simple_form else [found.value()]
    if not any(map(_has_number, values)):
        return None
    _, _, typed = override.partition("=")
    with suppress(yaml.YAMLError):
        if found.is_choice_sweep():
            typed = f"[{typed}]"
        texts = yaml.load(typed, yaml.BaseLoader)
        return texts if found.is_choice_sweep() else [texts]
    return None


def first_job(override: str) -> str:
    """Return the override of a sweep's first job, with the beginning of an interval that is searched; any other
    override as it is."""
    found: Any = parse(override)
    if not _sweeps(found):
        return override
    first = found.value().start if found.is_interval_sweep() else next(found.sweep_string_iterator())
    return f"{override.partition('=')[0]}={first}"


def _sweeps(found: Any) -> bool:
    return found is not None and found.is_sweep_override()


def _has_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_number, value))
    return value is None or isinstance(value, bool | int | float)


def _requoted(override: str, hint: Any) -> str:
    """Quote the texts of an override if a setting of the type `hint` takes them and not what Hydra would read."""
    found, texts = parse(override), _text(override)
    if not texts:
        return override
    values = found.value().list if found.is_choice_sweep() else [found.value()]
    if all(_fits(hint, v) for v in map(_plain, values)) or not all(_fits(hint, t) for t in texts):
        return override
    return f"{override.partition('=')[0]}={','.join(map(_quoted, texts))}"


def _quoted(text: Any) -> str:
    return f"[{','.join(map(_quoted, text))}]" if isinstance(text, list) else quoted(text)


def _plain(value: Any) -> Any:
    """Turn Hydra's quoted texts into plain ones."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return getattr(value, "text", value)


def _fits(hint: Any, value: Any) -> bool:
    try:
        pydantic.TypeAdapter(hint).validate_python(value, strict=True)
    except pydantic.ValidationError:
        return False
    return True


def _hint(override: str, config: Mapping[str, Any]) -> Any:
    """Return the type of the setting that `override` sets, from the signature of the component in the config.

    Returns Any if the type is unknown, or if the config has a number there.
    """
    *where, setting = override.partition("=")[0].lstrip("+").split(".")
    values: Any = config
    for part in where:
        values = values.get(part) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or isinstance(values.get(setting), bool | int | float):
        return Any
    from ebm_lab.core.errors import UserError
    from ebm_lab.core.registry import PACKAGES
    from ebm_lab.runs.settings import RunSettings

    target: Callable = RunSettings
    if where:
        name = values.get("name")
        if where[0] not in PACKAGES or not isinstance(name, str):
            return Any
        try:
            target = _component(where[0], name, config.get("plugins") or ())
        except UserError:
            return Any
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    return hints.get(setting, Any)


def _component(kind: str, name: str, plugins: Sequence[str]) -> Callable:
    """Find the component of that name; import plugins only if the lab has none."""
    from ebm_lab.core.errors import NotRegistered
    from ebm_lab.core.registry import find

    try:
        return find(kind, name)
    except NotRegistered:
        for plugin in plugins:
            with suppress(Exception), importing_from_here():  # an error is reported when the run is assembled
                importlib.import_module(plugin)
        return find(kind, name)
