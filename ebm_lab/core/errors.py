"""Mistakes that a user can mend, told in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the settings, the data or the machine at hand. The command line prints its text and exits with 2."""


class NotRegistered(UserError):
    """A component that no module registers which was imported."""


class Diverged(Exception):
    """Training left the region in which its numbers mean anything."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came where the code that runs does not watch for it."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """'; did you mean 'x'?' for a near miss among `allowed`, else the empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_of(key: str, given: object, allowed: Iterable[str]) -> UserError:
    """The error for a choice that does not exist: names the key, the value and what is allowed."""
    options = sorted(allowed)
    return UserError(f"{key}={given}: not an option; allowed: {', '.join(options)}{did_you_mean(str(given), options)}")
