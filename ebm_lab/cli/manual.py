"""Write `train.py --help` from the configs themselves, so that no option or default is written twice."""

import re
import textwrap
from collections.abc import Sequence

from ebm_lab.cli.arguments import Arguments
from ebm_lab.cli.commands import importing_from_here
from ebm_lab.cli.compose import GROUPS, config_dir, options
from ebm_lab.cli.facts import summary
from ebm_lab.cli.pages import WIDTH, asked_for, page

USAGE = """\
NAME
    train.py - train an energy-based model, p(x) = exp(-E(x)) / Z

SYNOPSIS
    python train.py [group=option ...] [key=value ...] [-m] [--config-dir DIR] [--cfg job] [--help]

GROUPS
{groups}

KEYS
{keys}
    The keys of a component are in configs/<group>/<option>.yaml; set them as group.key=value.
    `python train.py objective=dsm --help` explains the keys of one option, objective=? those of a whole group;
    `python train.py objective=dsm --cfg job` prints the config that a command composes.
    The command line overrides an experiment, an experiment overrides the recipe for the objective and the domain, and
    the recipe overrides the options of groups.
    Options may come in any order. Put a value with = , [ ] ( ) or non-ASCII letters into two pairs of quotes,
    'output_dir="a=b"'. Comma-separated values are a sweep: -m seed=0,1.

EXAMPLES
    python train.py
        The default: persistent contrastive divergence on real handwritten digits.
    python train.py objective=dsm dataset=two_moons seed=1 optim.lr=1e-3
        Denoising score matching in the plane, with the exact gap to the true likelihood.
    python train.py resume=outputs/runs/<run>
        Continue a run that was stopped or killed. init_from=<run> starts a new run from its weights.

EXIT STATUS
    0 finished   1 failed   2 a mistake in the settings   3 diverged
    75 ended by SIGTERM or SIGHUP, 130 by SIGINT: continue with resume=<run>, or the same command with resume=auto
"""


def help_for(arguments: Arguments) -> str:
    """Return what `--help` prints: the pages of the options and keys that the other words name, else the manual.

    Without `--help`, only words that end in =?, as objective=? or steps=?, ask for a page.
    """
    extra, words = arguments.folders("--config-dir"), arguments.overrides
    if "--help" not in arguments.options:
        words = [word for word in words if word.endswith("=?")]
    _import_plugins(arguments.overrides)
    pages = [page(*pair, extra) for pair in asked_for(words, extra)]
    named = {word.partition("=")[0] for word in words}
    known = "".join("\n".join(_key(*key)) + "\n" for key in keys() if key[0] in named)
    return "\n".join(filter(None, [*pages, known])) or manual()


def _import_plugins(overrides: Sequence[str]) -> None:
    """Import the modules that `plugins=[...]` names, so that the user's own components have pages too."""
    for names in (o.partition("=")[2] for o in overrides if o.startswith("plugins=")):
        from ebm_lab.runs.settings import import_plugins

        with importing_from_here():
            import_plugins(re.findall(r"[\w.]+", names))


def manual() -> str:
    """Return the whole text."""
    return USAGE.format(groups="\n".join(map(_group, GROUPS)), keys=_keys())


def _group(group: str) -> str:
    lines = [f"    {group}"]
    for option in options(group):
        lines += _entry(f"        {option:<14} {comment(group, option)}".rstrip(), 23)
    return "\n".join(lines) if len(lines) > 1 else f"    {group}\n        (none yet)"


def comment(group: str, option: str) -> str:
    """Return the first paragraph of the comment at the top of an option's YAML."""
    path = config_dir() / group / f"{option}.yaml"
    return summary(path.read_text(encoding="utf-8")) if path.exists() else ""


def _keys() -> str:
    lines: list[str] = []
    for key in keys():
        lines += _key(*key)
    return "\n".join(lines) + "\n"


def _key(name: str, default: str, about: str) -> list[str]:
    return _entry(f"    {name}={default:<{18 - len(name)}} {about}", 24)


def keys() -> list[tuple[str, str, str]]:
    """Return name, default and whole comment of each key of configs/train.yaml."""
    text = (config_dir() / "train.yaml").read_text(encoding="utf-8")
    found = re.findall(r"^(\w+): (\S+) +# (.+(?:\n +# .+)*)$", text, re.MULTILINE)
    return [(name, default, re.sub(r"\n +# ", " ", about)) for name, default, about in found]


def _entry(text: str, column: int) -> list[str]:
    """Wrap `text`, whose explanation begins at `column`, to the width of a terminal."""
    lines = textwrap.wrap(text[column:], WIDTH - column, break_on_hyphens=False) or [""]
    return [text[:column] + lines[0], *(" " * column + line for line in lines[1:])]
