"""Mark the cases that take one more component through a mechanism that other cases of the same test already show.

`make test` leaves them out, `make test-all` runs them. Every equation is tested by `make test`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

exhaustive = pytest.mark.exhaustive


def cases(
    every: Iterable[Any], kept: Iterable[Any], ids: Callable[[Any], str] | None = None, slow: Iterable[Any] = ()
) -> list[Any]:
    """Return all cases as parameters, of which those that are not among `kept` are exhaustive.

    A case is a value, or a tuple of values for several parameters. Kept cases that are among `slow` are left out by
    `make test-fast`. A kept case that is none of all is an error, so that a renamed component can't leave a mechanism
    without a case.
    """
    every, kept, slow = list(every), list(kept), list(slow)
    unknown = [case for case in kept if case not in every]
    if unknown:
        raise ValueError(f"{unknown} are no cases; there are {every}")
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=ids(case) if ids else None,
            marks=exhaustive if case not in kept else pytest.mark.slow if case in slow else (),
        )
        for case in every
    ]
