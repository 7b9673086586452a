"""List components, one line each: `ebm-lab list objective --needs labels`."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress

import yaml

from ebm_lab.cli.compose import COMPONENTS, config_dir, options
from ebm_lab.cli.manual import comment
from ebm_lab.cli.pages import WIDTH
from ebm_lab.cli.tools import main
from ebm_lab.core.choice import Choice
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.features import FEATURES
from ebm_lab.core.registry import PACKAGES, find, parse

COLUMN = 36


def listing(*, kind: str = "all", needs: str | None = None, offers: str | None = None) -> None:
    """List the components of a kind, one line each, with its summary.

    kind: dataset, energy, objective, sampler, evaluation, optim, logger, guard or all; needs: only those that need this
    feature of another component, by default or under the setting that is then shown; offers: only those that have this
    feature. `ebm-lab train objective=pcd --help` explains one of them.
    """
    kinds = [k for k in COMPONENTS if options(k)]
    if kind not in (*kinds, "all"):
        raise one_of("kind", kind, (*kinds, "all"))
    known = {feature for features in FEATURES.values() for feature in features}
    for key, feature in (("needs", needs), ("offers", offers)):
        if feature is not None and feature not in known:
            raise one_of(key, feature, known)
    lines = [line for k in (kinds if kind == "all" else [kind]) for line in _lines(k, needs, offers)]
    if not lines:
        asked = " and ".join(f"{verb} '{f}'" for verb, f in (("needs", needs), ("has", offers)) if f)
        raise UserError(f"kind={kind}: none {asked}")
    print("\n".join(lines))


def _lines(kind: str, needs: str | None, offers: str | None) -> Iterator[str]:
    for option in options(kind):
        choice = None if needs is None and offers is None else choice_of(kind, option)
        if offers is not None and (choice is None or offers not in (choice.offers or ())):
            continue
        under = "" if needs is None else _under(choice, needs)
        if under is None:
            continue
        head = f"{kind}={option}{f' {under}' if under else ''}".ljust(COLUMN - 1)
        about = comment(kind, option)
        if sys.stdout.isatty():  # a pipe gets whole lines, to be searched
            about = textwrap.shorten(about, max(20, WIDTH - len(head) - 1), placeholder=" ...")
        yield f"{head} {about}"


def choice_of(kind: str, option: str) -> Choice | None:
    """Return the component of an option with its default settings; None for an option that is no component."""
    values = yaml.safe_load((config_dir() / kind / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    plain = {k: v for k, v in values.items() if k != "defaults"}
    if kind not in PACKAGES:
        return None
    with suppress(UserError):  # a value that has to be given, or one that refers to the run's config
        return parse(kind, plain)
    with suppress(UserError, KeyError):
        return Choice(kind, option, kind, find(kind, plain.pop("name")), plain)
    return None


def _under(choice: Choice | None, feature: str) -> str | None:
    """Return the setting under which a component needs a feature: the empty text for its defaults, None if it never
    does."""
    if choice is None:
        return None
    for key in (None, *(k for k, v in choice.settings.items() if isinstance(v, bool))):
        settings = {**choice.settings, **({} if key is None else {key: not choice.settings[key]})}
        changed = Choice(choice.kind, choice.name, choice.path, choice.cls, settings)
        if any(need.feature == feature for part in changed.walk() for need in part.needs):
            return "" if key is None else f"{choice.kind}.{key}={str(settings[key]).lower()}"
    return None


listing.__name__ = "list"  # the name of the command, which --help shows


def main_list() -> None:
    """Run the console command `ebm-lab list`."""
    main(listing, sys.argv[1:] or ["all"])
