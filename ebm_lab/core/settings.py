"""Check settings against a signature: keyword-only parameters are settings, positional ones are wiring.

The constructor of a component is the only place that names its settings and their types, and its YAML the only place
that holds their values. `check` compares the two, and turns the faults that pydantic finds into lines that name the
key, the value and what is allowed.
"""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from ebm_lab.core.errors import UserError, did_you_mean

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def settings_of(target: Callable) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of `target`, by name."""
    kinds = inspect.signature(target).parameters.values()
    return {p.name: p for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY}


def annotations_of(target: Callable) -> dict[str, Any]:
    """Return the types of `target`'s parameters, with their annotations."""
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)


def wiring_of(target: Callable) -> list[str]:
    """Return the names of the positional parameters of `target`, which `build` passes in."""
    kinds = inspect.signature(target).parameters.values()
    return [p.name for p in kinds if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {'optim': {'lr': 1}} -> {'optim.lr': 1}."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def check(
    target: Callable, values: Mapping[str, Any], prefix: str, having: Callable[[str], Sequence[str]] = lambda key: ()
) -> dict[str, Any]:
    """Return `values` checked against the settings of `target`.

    having: returns the other components that have a setting which `target` lacks. Raises UserError with one line per
    fault, each naming `prefix` and the key, the value given and what is allowed.
    """
    parameters, hints = settings_of(target), annotations_of(target)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is inspect.Parameter.empty else p.default)
        for name, p in parameters.items()
    }
    model = pydantic.create_model("Settings", __config__=_STRICT, **fields)
    try:
        checked = model(**values)
    except pydantic.ValidationError as error:
        raise UserError("\n".join(_lines(error, {n: hints[n] for n in parameters}, prefix, having))) from None
    return {name: getattr(checked, name) for name in parameters}


def _lines(
    error: pydantic.ValidationError, known: Mapping[str, Any], prefix: str, having: Callable[[str], Sequence[str]]
) -> list[str]:
    lines: dict[str, list[str]] = {}
    instead: dict[str, str] = {}
    for fault in error.errors():
        name = str(fault["loc"][0])
        key = f"{prefix}.{name}" if prefix else name
        if fault["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(known)) or "nothing"
            others = having(name)
            belongs = f", for '{name}' belongs to {prefix}={', '.join(others)}" if others else ""
            near = "" if others else did_you_mean(name, known)
            text = f"{key}={fault['input']}: unknown key{belongs}; allowed: {allowed}{near}"
        elif fault["type"] == "missing":
            text = f"{key}: missing; it must be given a value"
        else:
            text = f"{key}={_show(fault['input'])}: {_allowed(fault)}"
            if fault["loc"] == (name,) or not isinstance(fault["input"], list | Mapping):
                instead[key] = _other_form(key, known[name], fault["input"])
        lines.setdefault(key, []).append(text)
    return [_join(faults) + instead.get(key, "") for key, faults in lines.items()]


def _other_form(key: str, hint: Any, value: Any) -> str:
    """Return '; write key=...' if the value is valid in another form: in a list, without its list, as a whole number or
    in quotes; else ''."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    others: list[tuple[Any, str]] = [([value], f"[{_show(value)}]"), (whole, str(whole))]
    if isinstance(value, bool | int | float):
        others.append((str(value), f'"{value}"'))
    if isinstance(value, list) and len(value) == 1:
        others.append((value[0], _show(value[0])))
    for other, text in others:
        if other is value:
            continue
        try:
            pydantic.TypeAdapter(hint).validate_python(other, strict=True)
        except pydantic.ValidationError:
            continue
        return f"; write {key}={text}"
    return ""


def _join(faults: list[str]) -> str:
    """Join the faults of one key on one line, since a union reports one fault per alternative."""
    head, *rest = faults
    return " or ".join([head, *dict.fromkeys(f.split(": ", 1)[1] for f in rest)])


def _allowed(fault: Any) -> str:
    text = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _show(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
