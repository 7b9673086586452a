"""Sort a command line into Hydra's options and the overrides, in whatever order they were typed.

Hydra's own parser rejects a command line on which options and overrides alternate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebm_lab.cli.quoting import DASHES
from ebm_lab.core.errors import UserError, did_you_mean, one_of, resembles

SHORT = {
    "-h": "--help",
    "-m": "--multirun",
    "-r": "--run",
    "-c": "--cfg",
    "-p": "--package",
    "-i": "--info",
    "-cd": "--config-dir",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-sc": "--shell-completion",
}
SWITCHES = ("--help", "--multirun", "--run", "--resolve", "--version", "--hydra-help", "--shell-completion")
VALUED = ("--config-dir", "--config-path", "--config-name", "--package")
ONE_OF = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


@dataclass
class Arguments:
    """A command line: `options`, values by long name (None for a switch), and `overrides`."""

    options: dict[str, str | None] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def folders(self, *names: str) -> list[Path]:
        """Return the directories that these options name."""
        return [Path(value) for name in names if (value := self.options.get(name))]

    def argv(self, overrides: Sequence[str]) -> list[str]:
        """Return the arguments in the order that Hydra's parser takes: the options, then `overrides`."""
        options = [word for pair in self.options.items() for word in pair if word is not None]
        return [*options, *overrides]


def sort(argv: Sequence[str]) -> Arguments:
    """Sort a command line. Raises UserError for an unknown option, or one without its value."""
    found, waiting = Arguments(), list(argv)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        if name in SWITCHES and not equals:
            found.options[name] = None
        elif name in (*VALUED, *ONE_OF):
            found.options[name] = _value(name, word, value if equals else None, waiting)
        elif word == "--":
            continue
        elif word[:1] in tuple(DASHES) and "=" not in word:
            raise _unknown(word, waiting[:1])
        else:
            found.overrides.append(word)
    for folder in found.folders("--config-dir"):
        if not folder.is_dir():
            raise UserError(f"--config-dir={folder}: no such directory")
    return found


def _value(name: str, word: str, given: str | None, waiting: list[str]) -> str:
    """Return the value of an option: the text after its '=', or the next word."""
    allowed = ONE_OF.get(name, ())
    if given is None and name == "--info" and (not waiting or waiting[0] not in allowed):
        return "all"
    if given is None and waiting and not waiting[0].startswith("-"):
        given = waiting.pop(0)
    if not given:
        what = f"one of {', '.join(allowed)}" if allowed else "a value"
        raise UserError(f"{word}: needs {what}: {name} <value>")
    if allowed and given not in allowed:
        raise one_of(name, given, allowed)
    return given


def _unknown(word: str, following: Sequence[str]) -> UserError:
    """Return the error for an option that does not exist, or that was typed with other dashes than hyphens.

    following: the next word, if there is one: `--steps 100` was meant as a setting.
    """
    plain = "".join("-" if c in DASHES else c for c in word)
    known = [*SHORT, *SWITCHES, *VALUED, *ONE_OF]
    for meant in (plain, plain.replace("--", "-"), f"-{plain}"):
        if meant in known and meant != word:
            return UserError(f"{word}: unknown option; write {meant}, with hyphens")
    longs = sorted({*SWITCHES, *VALUED, *ONE_OF})
    near = did_you_mean(plain, longs)
    if following and not following[0].startswith("-") and "=" not in following[0] and not resembles(plain, longs):
        near = f": {plain.lstrip('-').replace('-', '_')}={following[0]}"
    return UserError(f"{word}: unknown option; allowed: {', '.join(longs)}, and settings as key=value{near}")
