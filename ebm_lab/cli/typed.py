"""Take a number that was typed for a text as it was typed: dataset.path=123 is a file, logger.group=007 a name.

Hydra reads 007, 1e5, true or [1] before it knows what a setting takes. Here the settings' own types decide: where the
value that Hydra read does not fit and the typed text does, the text stands in quotes before Hydra reads it.
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
    """`overrides`, with quotes around what was meant as a text.

    `groups`: those whose options are files, named by texts; `compose`: the config of some overrides, interpolations
    unresolved. Components are imported for their signatures only where a value is no text and what it replaces is no
    number.
    """
    named = [_requoted(o, str) if o.partition("=")[0].lstrip("+") in groups else o for o in overrides]
    if not any(map(_text, named)):
        return named
    try:
        config = compose([first_job(o) for o in named if not _text(o)])
    except Exception:  # whatever is wrong is found again, and told, when all is composed
        return named
    return [_requoted(o, _hint(o, config)) if _text(o) else o for o in named]


def _text(override: str) -> list[Any] | None:
    """What was typed as the value, one entry for each value of a sweep, where any of them is no text; else None."""
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
    """`override`, or the first job's where it is a sweep."""
    found = parse(override)
    return f"{found.input_line.partition('=')[0]}={next(found.sweep_string_iterator())}" if _sweeps(found) else override


def _sweeps(found: Any) -> bool:
    return found is not None and found.is_sweep_override()


def _has_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_number, value))
    return value is None or isinstance(value, bool | int | float)


def _requoted(override: str, hint: Any) -> str:
    """`override` with its texts quoted, where a setting of the type `hint` takes them and not what Hydra read."""
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
    """Hydra's quoted texts as plain ones."""
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
    """The type of the setting that `override` sets, by the signature of the component that the config names; Any where
    that is unknown, or where a number stands now."""
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
    """The component of that name; plugins are imported only where the lab has none."""
    from ebm_lab.core.errors import NotRegistered
    from ebm_lab.core.registry import find

    try:
        return find(kind, name)
    except NotRegistered:
        for plugin in plugins:
            with suppress(Exception), importing_from_here():  # a mistake is told when the run is assembled
                importlib.import_module(plugin)
        return find(kind, name)
