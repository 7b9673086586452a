"""Write the page of one option, `train.py objective=dsm --help`, for the terminal."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ebm_lab.cli.compose import GROUPS, options
from ebm_lab.cli.facts import Setting, facts_of
from ebm_lab.cli.grammar import group_of
from ebm_lab.core.errors import one_of

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
    """Write the page of one option: its summary, equation, settings, needs, offers, recipes and reference."""
    facts = facts_of(group, option, extra)
    blocks = [_wrapped(about) for about in facts.about]
    blocks += [_shown(about) if about.startswith(("    ", "|")) else _wrapped(about) for about in facts.method]
    blocks += [_wrapped(about) for about in facts.parts]
    lines = [f"{group}={option}"]
    for i, block in enumerate(blocks):
        lines += ["", *block] if i else block
    if facts.settings:
        lines += ["", "KEYS", *(line for setting in facts.settings for line in _setting(setting))]
    for title, found in (
        ("NEEDS", facts.needs),
        ("OFFERS", facts.offers),
        ("BRINGS", facts.brings),
        ("RECIPE", facts.recipes),
        ("REFERENCE", facts.references),
    ):
        if found:
            lines += ["", title, *(line for f in found for line in _wrapped(f, " " * 8, "    "))]
    return "\n".join(lines) + "\n"


def _setting(setting: Setting) -> list[str]:
    """Write a setting: its key and default, the values that it takes, and the YAML's comment."""
    note = f" ({setting.note})" if setting.note else ""
    shown = setting.default or "<must be given>"
    return _wrapped(f"{setting.key}={shown}".ljust(39) + f" {setting.takes}{note}".rstrip(), " " * 8, "    ")


def _wrapped(text: str, indent: str = "    ", first: str | None = None) -> list[str]:
    first = indent if first is None else first
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _shown(block: str) -> list[str]:
    """Indent lines that are set out by hand, such as equations and tables, if all of them then fit."""
    lines = block.splitlines()
    indent = "    " if max(map(len, lines)) <= WIDTH - 4 else ""
    return [indent + line for line in lines]
