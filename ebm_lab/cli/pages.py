"""Write the page of one option, `train.py objective=dsm --help`, from its YAML, its class and its recipes."""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ebm_lab.cli.compose import COMPONENTS, DOMAINS, GROUPS, config_dir, options
from ebm_lab.cli.grammar import group_of
from ebm_lab.cli.recipes import read, sections
from ebm_lab.core.errors import UserError, one_of

WIDTH = 120


def asked_for(words: Sequence[str], extra: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """Return the (group, option) pairs that these words name; a bare group, or group=?, names all its options.

    Raises UserError for an option that does not exist.
    """
    found = []
    for word in words:
        group, equals, given = word.partition("=")
        group = group_of(group.lstrip("+"))
        allowed = options(group, extra) if group in GROUPS else []
        if group in GROUPS and given in ("", "?"):
            found += [(group, option) for option in allowed]
        elif group in GROUPS:
            for option in re.findall(r"[^\s,\[\]'\"]+", given):
                if option not in allowed:
                    raise one_of(group, option, allowed)
                found.append((group, option))
        elif not equals:
            found += [(g, word) for g in GROUPS if word in options(g, extra)]
    return list(dict.fromkeys(found))


def page(group: str, option: str, extra: Sequence[Path] = ()) -> str:
    """Write the page of one option: its summary, settings, needs and recipes."""
    file = next(f for d in (*extra, config_dir()) if (f := Path(d) / group / f"{option}.yaml").is_file())
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    lines = [f"{group}={option}"]
    for about in paragraphs(text):
        lines += ["", *_wrapped(about)] if len(lines) > 1 else _wrapped(about)
    component = _component(group, values)
    for about in _documentation(component):
        lines += ["", *_wrapped(about)]
    brings, settings = _brings(values), {k: v for k, v in values.items() if k not in ("defaults", "name")}
    if settings:
        lines += ["", "KEYS", *_settings(group, values.get("name"), settings, component, text)]
    needs = list(_needs(group, component, settings))
    for title, found in (("NEEDS", needs), ("BRINGS", brings), ("RECIPE", list(_recipes(group, option)))):
        if found:
            lines += ["", title, *(line for f in found for line in _wrapped(f, " " * 8, "    "))]
    return "\n".join(lines) + "\n"


def summary(text: str) -> str:
    """Return the first paragraph of the comment at the top of a YAML, on one line."""
    return next(iter(paragraphs(text)), "")


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of the comment at the top of a YAML, each on one line."""
    found = re.match(r"(?:# @.*\n)?((?:#.*\n)*)", text)
    comment = re.sub(r"^# ?", "", found[1] if found else "", flags=re.MULTILINE)
    return [" ".join(part.split()) for part in comment.split("\n\n") if part.strip()]


def _wrapped(text: str, indent: str = "    ", first: str | None = None) -> list[str]:
    first = indent if first is None else first
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _component(group: str, values: Mapping[str, Any]) -> Callable | None:
    """Find the class that a YAML's `name` names; None for a preset, or if its plugin was not imported."""
    from ebm_lab.core.registry import PACKAGES, find

    if group == "guard":
        from ebm_lab.training.guard import Guard

        return Guard
    with suppress(UserError):
        return find(group, values["name"]) if group in PACKAGES and "name" in values else None
    return None


def _documentation(component: Any) -> Iterable[str]:
    """Yield the docstrings of a class and its base classes, which explain its settings."""
    for base in inspect.getmro(component) if inspect.isclass(component) else ():
        inner = base.__module__.startswith("ebm_lab.") and base.__module__ != "ebm_lab.core.interfaces"
        if (inner or base is component) and (text := vars(base).get("__doc__")):
            yield " ".join(text.split())


def _settings(
    group: str, name: Any, settings: Mapping[str, Any], component: Callable | None, text: str
) -> Iterable[str]:
    """Yield a line for each setting: its key and default, the values that it takes, and the YAML's comment."""
    prefix = {"evaluation": f"evaluation.{name}."}.get(group, f"{group}." if group in COMPONENTS else "")
    target: Any = component.__init__ if inspect.isclass(component) else component
    hints = typing.get_type_hints(target, include_extras=True) if target else {}
    comments = dict(re.findall(r"^(\w+): .*?\S +# (.+)$", text, re.MULTILINE))
    for key, value in _flat(settings, prefix):
        short = key.removeprefix(prefix)
        takes = described(hints[short]) if short in hints else ""
        note = f" ({comments[short]})" if short in comments else ""
        shown = "<must be given>" if value == "???" else _yaml(value)
        yield from _wrapped(f"{key}={shown}".ljust(39) + f" {takes}{note}".rstrip(), " " * 8, "    ")


def _flat(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _yaml(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_yaml, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def described(hint: Any) -> str:
    """Describe a type in words: the values that a setting takes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [m for part in inner[1:] for m in (part, *getattr(part, "metadata", ()))]
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        said = [f"{sign} {getattr(m, name)}" for m in limits for name, sign in signs.items() if hasattr(m, name)]
        return " ".join([described(inner[0]), " and ".join(dict.fromkeys(s for s in said if "None" not in s))]).strip()
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(described, inner))
    if origin is list:
        return f"a list of: {described(inner[0])}"
    if origin is dict or not isinstance(hint, type):
        return ""
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "")


def _brings(values: Mapping[str, Any]) -> list[str]:
    """List the options that an option chooses in other groups unless the command line chooses them."""
    lines = [line for line in values.get("defaults", ()) if isinstance(line, Mapping)]
    chosen = [(re.search(r"/(\w+)(?:@|$)", key), option) for line in lines for key, option in line.items()]
    return [f"{key[1]}={option}" for key, option in chosen if key]


def _needs(group: str, component: Any, settings: Mapping[str, Any]) -> Iterable[str]:
    from ebm_lab.core.settings import wiring_of

    missing = [key for key, value in settings.items() if value == "???"]
    if missing:
        yield "to be given: " + ", ".join(f"{group}.{key}=..." for key in missing)
    asks = {"energy": "an energy, so no score network", "levels": "a model of many noise levels: energy=noise"}
    asks |= {"smooth": "a smooth activation in the energy"}
    if group in ("objective", "sampler") and component is not None:
        yield from (asks[need.feature] for need in component.needs if need.feature in asks)
    if group == "objective" and component is not None:
        chains = "sampler" in wiring_of(component)
        yield "a sampler, whose chains it trains with" if chains else "no sampler; one draws the samples"
        if component.needs_float32:
            yield "precision=float32"
    if group == "sampler" and component is not None and "stationary" not in component.offers:
        yield "an objective that trains without chains: the sampler goes down the model's noise levels"
    if group == "energy" and component is not None and "energy" not in component.offers:
        yield "objective=multi_dsm, and a sampler that takes a score"


def _recipes(group: str, option: str) -> Iterable[str]:
    """Yield what recipes set for this option: for an objective all their values, for the option of another group the
    values that hold under it."""
    for domain in DOMAINS:
        for file in sorted((config_dir() / "recipe" / domain).glob("*.yaml")):
            if group == "objective" and file.stem != option:
                continue
            title, values = f"objective={file.stem} domain={domain}", read(file)
            plain = {k: v for k, v in values.items() if k not in ("choose", "when")}
            if group == "objective":
                yield f"{title}: {summary(file.read_text(encoding='utf-8'))}: {_assignments(plain)}"
            for condition, section in sections(file, values):
                if group == "objective" or option in condition.get(group, ()):
                    chosen = " ".join(f"{slot}={'|'.join(names)}" for slot, names in condition.items())
                    yield f"{title} {chosen}: {_assignments(section)}"


def _assignments(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{k}={_yaml(v)}" for k, v in _flat(values, ""))
