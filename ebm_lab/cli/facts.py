"""Gather what is known of one option of a group, from its YAML, its class and its recipes.

The page of `train.py objective=dsm --help` and the page of the documentation site are written from it.
"""

import functools
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ebm_lab.cli.compose import COMPONENTS, DOMAINS, config_dir
from ebm_lab.cli.grammar import group_of
from ebm_lab.cli.hints import described
from ebm_lab.cli.recipes import read, sections
from ebm_lab.core.errors import UserError
from ebm_lab.core.features import FEATURES, Part

SOURCE = re.compile(r"\b(1[89]|20)\d\d\b")
"""A year, by which the last paragraph of a module's docstring is known to name its sources."""
NO_SETTINGS = ("ebm_lab.core.interfaces", "ebm_lab.core.features", "ebm_lab.core.eval_view")
"""The modules of base classes that have no settings to explain."""


class Setting(NamedTuple):
    """A setting of an option. key: as it is typed on the command line; default: its value, empty if it must be given;
    takes: the values that it takes, in words; note: the comment beside it in the YAML."""

    key: str
    default: str
    takes: str
    note: str


class Facts(NamedTuple):
    """What is known of one option.

    about: the paragraphs of the comment at the top of its YAML; method: those of its module's docstring, whose
    equations are indented by four spaces; parts: the docstrings of its class and base classes; needs, offers, brings,
    recipes: one line each; references: the sources of the method.
    """

    group: str
    option: str
    about: list[str]
    method: list[str]
    parts: list[str]
    settings: list[Setting]
    needs: list[str]
    offers: list[str]
    brings: list[str]
    recipes: list[str]
    references: list[str]


def facts_of(group: str, option: str, extra: Sequence[Path] = ()) -> Facts:
    """Return the facts of an option of `configs/`, or of one of the directories `extra`."""
    file = next(f for d in (*extra, config_dir()) if (f := Path(d) / group / f"{option}.yaml").is_file())
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    component = _component(group, values)
    method, references = _method(component)
    settings = {k: v for k, v in values.items() if k not in ("defaults", "name")}
    return Facts(
        group,
        option,
        paragraphs(text),
        method,
        list(_documentation(component)),
        list(_settings(group, values.get("name"), settings, component, text)),
        list(_needs(group, component, settings)),
        list(_offers(group, component, settings)),
        _brings(group, values),
        list(_recipes(group, option)),
        references,
    )


def summary(text: str) -> str:
    """Return the first paragraph of the comment at the top of a YAML, on one line."""
    return next(iter(paragraphs(text)), "")


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of the comment at the top of a YAML, each on one line."""
    found = re.match(r"(?:# @.*\n)?((?:#.*\n)*)", text)
    comment = re.sub(r"^# ?", "", found[1] if found else "", flags=re.MULTILINE)
    return [" ".join(part.split()) for part in comment.split("\n\n") if part.strip()]


def _component(group: str, values: Mapping[str, Any]) -> Callable | None:
    """Find the class that a YAML's `name` names; None for a preset, or if its plugin was not imported."""
    from ebm_lab.core.registry import PACKAGES, find

    if group == "guard":
        from ebm_lab.training.guard import Guard

        return Guard
    with suppress(UserError):
        return find(group, values["name"]) if group in PACKAGES and "name" in values else None
    return None


def _method(component: Any) -> tuple[list[str], list[str]]:
    """Return the paragraphs of the docstring of a component's module: its equation and what it means, and apart from
    them its references."""
    module = inspect.getmodule(component) if component is not None else None
    text = inspect.getdoc(module) if module is not None else None
    found = [part for part in (text or "").split("\n\n") if part.strip()]
    sources = found[-1] if len(found) > 1 and SOURCE.search(found[-1]) else None
    about = [block for part in (found[:-1] if sources else found) for block in _blocks(part)]
    return about, [" ".join(entry.split()) for entry in re.split(r"(?<=\.)\n", sources or "") if entry]


def _blocks(paragraph: str) -> list[str]:
    """Part the lines of a paragraph that are set out by an indent from those of its prose."""
    runs = itertools.groupby(paragraph.splitlines(), lambda line: line.startswith("    "))
    return ["\n".join(lines) for _, lines in runs]


def _documentation(component: Any) -> Iterable[str]:
    """Yield the docstring of a class, and those of its base classes that explain settings."""
    for base in inspect.getmro(component) if inspect.isclass(component) else ():
        inner = base.__module__.startswith("ebm_lab.") and base.__module__ not in NO_SETTINGS
        text = vars(base).get("__doc__") or ""
        if text if base is component else inner and re.search("[`=]", text):
            yield " ".join(text.split())


def _settings(
    group: str, name: Any, settings: Mapping[str, Any], component: Callable | None, text: str
) -> Iterable[Setting]:
    """Yield the settings of an option with their defaults, the values that they take, and the YAML's comments."""
    prefix = {"evaluation": f"evaluation.{name}."}.get(group, f"{group}." if group in COMPONENTS else "")
    target: Any = component.__init__ if inspect.isclass(component) else component
    hints = typing.get_type_hints(target, include_extras=True) if target else {}
    comments = dict(re.findall(r"^(\w+): .*?\S +# (.+)$", text, re.MULTILINE))
    for key, value in _flat(settings, prefix):
        short = key.removeprefix(prefix)
        takes = described(hints[short]) if short in hints else ""
        yield Setting(key, "" if value == "???" else _yaml(value), takes, comments.get(short, ""))


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


def _brings(group: str, values: Mapping[str, Any]) -> list[str]:
    """List the options that an option chooses in other places unless the command line chooses them."""
    lines = [line for line in values.get("defaults", ()) if isinstance(line, Mapping)]
    chosen = [(re.search(r"/(\w+)(?:@(\S+))?$", key), option) for line in lines for key, option in line.items()]
    return [f"{_place(group, key[1], key[2] or key[1])}={option}" for key, option in chosen if key]


def _place(group: str, chosen: str, package: str) -> str:
    """Return where an option is chosen, as it is typed: evaluation_sampler, or objective.generative."""
    place = package.removeprefix("_global_.")
    inner = f"{group}.{place}"
    return inner if group_of(inner) == chosen != inner else place


def _needs(group: str, component: Any, settings: Mapping[str, Any]) -> Iterable[str]:
    from ebm_lab.core.settings import wiring_of

    missing = [key for key, value in settings.items() if value == "???"]
    if missing:
        yield "to be given: " + ", ".join(f"{group}.{key}=..." for key in missing)
    asks = {"energy": "an energy, so no score network", "levels": "a model of many noise levels: energy=noise"}
    asks |= {"smooth": "a smooth activation in the energy"}
    if group in ("objective", "sampler", "evaluation") and component is not None:
        for need in dict.fromkeys(n for base in inspect.getmro(component) for n in vars(base).get("needs", ())):
            meaning = FEATURES[need.role][need.feature]
            yield asks.get(need.feature) or f"{need.role} ({need.feature}): {meaning[0].lower()}{meaning[1:]}"
    if group == "objective" and component is not None:
        chains = "sampler" in wiring_of(component)
        yield "a sampler, whose chains it trains with" if chains else "no sampler; one draws the samples"
        if component.needs_float32:
            yield "precision=float32"
    if group == "sampler" and component is not None and "stationary" not in component.offers:
        yield "an objective that trains without chains: the sampler goes down the model's noise levels"
    if group == "energy" and component is not None and "energy" not in component.offers:
        yield "objective=multi_dsm, and a sampler that takes a score"


def _offers(group: str, component: Any, settings: Mapping[str, Any]) -> Iterable[str]:
    """Yield the features of a sampler or an energy, with their meanings."""
    if group in ("sampler", "energy") and inspect.isclass(component) and issubclass(component, Part):
        offered = component.offers_of(**settings)
        yield from (f"{feature}: {meaning}" for feature, meaning in FEATURES[group].items() if feature in offered)


def _recipes(group: str, option: str) -> Iterable[str]:
    """Yield what recipes set for this option: for an objective all their values, for the option of another group the
    values that hold under it."""
    for domain, file, values in _all_recipes():
        if group == "objective" and file.stem != option:
            continue
        title = f"objective={file.stem} domain={domain}"
        plain = {k: v for k, v in values.items() if k not in ("choose", "when")}
        if group == "objective":
            yield f"{title}: {summary(file.read_text(encoding='utf-8'))}: {_assignments(plain)}"
        for condition, section in sections(file, values):
            if group == "objective" or option in condition.get(group, ()):
                chosen = " ".join(f"{slot}={'|'.join(names)}" for slot, names in condition.items())
                yield f"{title} {chosen}: {_assignments(section)}"


@functools.cache
def _all_recipes() -> list[tuple[str, Path, dict[str, Any]]]:
    """Read the domain, the file and the values of every recipe of the lab, once, since the pages of all options take
    them."""
    files = [(domain, f) for domain in DOMAINS for f in sorted((config_dir() / "recipe" / domain).glob("*.yaml"))]
    return [(domain, file, read(file)) for domain, file in files]


def _assignments(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{k}={_yaml(v)}" for k, v in _flat(values, ""))
