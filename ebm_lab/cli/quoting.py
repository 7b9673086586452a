"""Correct a setting that Hydra's grammar rejects, and show it as an argument that can be pasted into a shell."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ebm_lab.core.errors import UserError

NAME = re.compile(r"(\+\+|\+|~)?[A-Za-z_$][\w./@$:-]*")
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
STRAIGHT = str.maketrans("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019\u201a\u201b", '""""""' + "''''")
"""Maps typographic quotes, as word processors and web pages write them, to straight ones."""


def quoted(text: str) -> str:
    """Put `text` in double quotes, so that Hydra reads it back as a text whatever it looks like."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return '"' + re.sub(r"(\\*)\$\{", r"\1\1\\${", text) + '"'  # else OmegaConf resolves it


def parse(override: str) -> Any:
    """Parse one override as Hydra does; return None if Hydra can't."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, ValueError):
        return None


def written(key: str, value: str) -> str:
    """Write the argument that gives `key` the value `value`, quoted for Hydra and for the shell if needed."""
    plain = f"{key}={value}"
    found = parse(plain)
    readable = found is not None and not found.is_sweep_override() and "${" not in value
    return shlex.quote(plain if readable else f"{key}={_list(value) or quoted(value)}")


def _list(value: str) -> str | None:
    """Quote each element if `value` is a list without quotes; else return None."""
    try:
        elements = yaml.load(value, yaml.BaseLoader) if value.startswith("[") and value.endswith("]") else None
    except yaml.YAMLError:
        return None
    if not isinstance(elements, list) or not all(isinstance(e, str) for e in elements):
        return None
    return f"[{','.join(map(quoted, elements))}]"


def check_form(overrides: Sequence[str], choices: Mapping[str, Sequence[str]]) -> None:
    """Reject, in one line that says what to write, an override that Hydra can't read as key=value.

    choices: the options of each group.
    """
    for index, given in enumerate(overrides):
        problem = _problem(given, overrides[index + 1 :], choices)
        if problem:
            raise UserError(f"{_shown(given)}: {problem}")


def _shown(given: str) -> str:
    """Show an argument on one line, and visibly if it is empty."""
    return given.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t") if given.strip() else repr(given)


def _problem(given: str, rest: Sequence[str], choices: Mapping[str, Sequence[str]]) -> str | None:
    key, equals, value = given.partition("=")
    if not given.strip():
        return "an empty argument; leave it out"
    if "\r" in given:
        bare = written(key, value.rstrip()) if equals else given.rstrip()
        return (
            f"holds a carriage return, as files with Windows line ends do (sed -i 's/\\r$//' removes it); write {bare}"
        )
    if given[0] in DASHES:
        bare = given.lstrip(DASHES)
        as_setting = f"; a setting has no dashes before it: {shlex.quote(bare)}" if "=" in bare else ""
        return f"not a setting{as_setting}"
    if not equals:
        deletes = given.startswith("~") and NAME.fullmatch(given)
        return None if deletes else f"not of the form key=value{_meant(given, rest, choices)}"
    if not NAME.fullmatch(key.strip()):
        clean = key.translate(STRAIGHT).strip("\"' ")
        return f"'{key}' can't be a key" + (f"; write {written(clean, value)}" if NAME.fullmatch(clean) else "")
    if "-" in key and "/" not in key:
        return f"no key has a '-'; write {written(key.replace('-', '_'), value)}"
    if not value.strip():
        if rest and "=" not in rest[0] and rest[0][:1] not in DASHES:
            return f"has no value; write no blank after the '=': {written(key, rest[0])}"
        return f"has no value; is a variable not set? Write the empty text as {shlex.quote(key + '=' + quoted(''))}"
    return _unreadable(key, value, choices) if parse(given) is None else None


def _meant(given: str, rest: Sequence[str], choices: Mapping[str, Sequence[str]]) -> str:
    """Suggest what a word without '=' may have meant."""
    following = rest[0] if rest else ""
    if following.startswith("="):
        value = following[1:] or (rest[1] if len(rest) > 1 else "")
        return f"; write no blanks around the '=': {written(given, value)}"
    key, colon, value = given.partition(":")
    if colon and value and NAME.fullmatch(key) and not value.startswith("/"):
        return f"; write {written(key, value)}"
    if given in choices:
        if following in choices[given]:
            return f"; write {given}={following}"
        return f"; write {given}=<option>; allowed: {', '.join(choices[given])}"
    groups = [group for group, options in choices.items() if given in options]
    if groups:
        return f"; did you mean {' or '.join(f'{group}={given}' for group in groups)}?"
    if (Path(given) / "config.yaml").is_file():
        return f"; write {written('resume', given)} to go on with that run"
    return ""


def _unreadable(key: str, value: str, choices: Mapping[str, Sequence[str]]) -> str:
    """Say why Hydra can't read `key=value`, and which argument it can read."""
    problem = "can't be read as key=value"
    group = key.lstrip("+") in choices
    other = re.fullmatch(r"(.*?)[\s,;]+([A-Za-z_][\w./]*)=(.*)", value, re.DOTALL)
    if other and parse(f"{key}={other[1]}") and (group or "." in other[2] or other[2] in choices):
        two = f"{written(key, other[1])} {written(other[2], other[3])}"
        return f"{problem}; write two settings as two arguments, without quotes around both: {two}"
    if value.startswith("=") and parse(f"{key}={value.lstrip('=')}"):
        return f"{problem}; one '=' is enough: {written(key, value.lstrip('='))}"
    if value[-1] in ",;" and parse(f"{key}={value[:-1]}"):
        return f"{problem}; write it without the '{value[-1]}': {written(key, value[:-1])}"
    straight = value.translate(STRAIGHT)
    if straight != value and straight[0] in "\"'" and straight[-1] == straight[0]:
        return f"{problem}, for its quotes are not those of a keyboard; write {written(key, straight[1:-1])}"
    if value[0] in "[{" and not value.endswith("]" if value[0] == "[" else "}"):
        return f"{problem}, for its bracket is not closed"
    if value[0] == "(" and value[-1] == ")":
        return f"{problem}; write a list in square brackets: {shlex.quote(f'{key}=[{value[1:-1]}]')}"
    if value[0] == "~" and not group:
        home = str(Path(value).expanduser()) if value[1:2] in ("", "/") else None
        here = f"for your own directory write {written(key, home)}; " if home else ""
        name = shlex.quote(f"{key}={quoted(value)}")
        return f"{problem}, and nothing has expanded its '~'; {here}for a name that begins with it {name}"
    if group and (bare := re.sub(r"[^\w]", "", straight)) in choices[key.lstrip("+")]:
        return f"{problem}; write {key}={bare}"
    return f"{problem}; put such a value in quotes, for Hydra and for the shell: {written(key, value)}"
