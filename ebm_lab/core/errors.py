"""Errors that a user can fix, each explained in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error in the settings, the data or the machine. The command line prints its text and exits with status 2."""


class NotRegistered(UserError):
    """No module that was imported registers the component."""


class Diverged(Exception):
    """Training diverged: its numbers no longer mean anything."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived while no handler was waiting for it."""


def resembles(given: str, allowed: Iterable[str]) -> bool:
    """Does `given` differ from an option in `allowed` by a letter or two, or begin one?"""
    options = list(allowed)
    begins = len(given) > 2 and any(o.startswith(given) for o in options)
    return begins or bool(difflib.get_close_matches(given, options, n=1, cutoff=0.85))


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return '; did you mean 'x'?' if an option in `allowed` resembles `given`, else the empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_of(key: str, given: object, allowed: Iterable[str]) -> UserError:
    """Return the error for an option that does not exist: it names the key, the value and the options."""
    options = sorted(allowed)
    return UserError(f"{key}={given}: not an option; allowed: {', '.join(options)}{did_you_mean(str(given), options)}")
