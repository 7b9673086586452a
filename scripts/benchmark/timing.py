"""Race contestants: they take turns at the same work, and each is compared with the reference round by round.

    r_i = (seconds per unit of work of a contestant in round i) / (the reference's in round i),    i = 1 .. n
    ratio = median of r_i,    95 % interval: the order statistics (r_(k), r_(n + 1 - k))

with the largest k for which P(B < k) <= 0.025, B ~ Binomial(n, 1/2): the chance that the true median lies outside is at
most 5 % for any law of independent r_i, and for n = 31 it is 2.9 %. A slowdown of the machine that lasts
longer than a round affects all contestants equally and cancels; the order rotates by one place each round, so that no
one always runs after the same other. The contents of the caches that one leaves to the next remain as an influence.

H. A. David and H. N. Nagaraja, Order Statistics, 2003, section 7.1.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_ROUNDS = 31
CLOCKS = ("cpu", "wall")
Work = Callable[[], object]
"""One unit of work: a training step, or one call of a sampler."""
Timed = Callable[[int], tuple[float, float]]
"""(CPU, wall) seconds per unit of work, over a block of so many."""


@dataclass(frozen=True)
class Interval:
    """A median with the interval that holds the true one with 95 % confidence."""

    middle: float
    low: float
    high: float


def rank(n: int, miss: float = 0.05) -> int:
    """The largest k with P(Binomial(n, 1/2) < k) <= miss / 2; 0 where n is too small for any."""
    below, k = 0.0, 0
    while below + math.comb(n, k) / 2**n <= miss / 2:
        below, k = below + math.comb(n, k) / 2**n, k + 1
    return k


def median_interval(values: Sequence[float]) -> Interval:
    """Compute the median of independent values with its interval, infinitely wide for fewer than six."""
    ordered, k = sorted(values), rank(len(values))
    if not k:
        return Interval(median(ordered), -math.inf, math.inf)
    return Interval(median(ordered), ordered[k - 1], ordered[-k])


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of round `turn`."""
    turn %= len(names)
    return [*names[turn:], *names[:turn]]


def clocks() -> tuple[float, float]:
    """Return (CPU time of this process with all its threads, wall time) in seconds."""
    return time.process_time(), time.perf_counter()


def timed(work: Work | None, repeats: int, now: Callable[[], tuple[float, float]] = clocks) -> tuple[float, float]:
    """Measure (CPU, wall) seconds per unit of work over a block of `repeats`."""
    assert work is not None
    began = now()
    for _ in range(repeats):
        work()
    ended = now()
    return (ended[0] - began[0]) / repeats, (ended[1] - began[1]) / repeats


def calibrate(block_of: Timed, block: float) -> int:
    """Find the number of units of work that take at least `block` seconds of wall time, and warm the work up.

    The shorter of two blocks counts, because one-time work such as compiling falls into only one of them.
    """
    block_of(1)
    repeats = 1
    while True:
        wall = min(block_of(repeats)[1] for _ in range(2))
        if wall * repeats >= block:
            return repeats
        repeats = max(repeats + 1, min(10 * repeats, math.ceil(1.2 * block / max(wall, 1e-9))))


@dataclass(frozen=True)
class Race:
    """Seconds per unit of work, `seconds[clock][name][round]`, and the contestant that the others are measured by."""

    reference: str
    seconds: dict[str, dict[str, list[float]]]

    @property
    def names(self) -> list[str]:
        return list(self.seconds["cpu"])

    def ratio(self, name: str, clock: str, to: str | None = None) -> Interval:
        """Compute the ratio of `name` to another contestant, by default the reference."""
        pairs = zip(self.seconds[clock][name], self.seconds[clock][to or self.reference], strict=True)
        return median_interval([mine / theirs for mine, theirs in pairs])

    def seconds_of(self, name: str, clock: str) -> float:
        """Return the median time of one unit of work."""
        return median(self.seconds[clock][name])


def race(contestants: Mapping[str, Timed], reference: str, rounds: int, block: float = 0.02) -> Race:
    """Let the contestants take turns, `rounds` times, in blocks of at least `block` seconds each."""
    repeats = {name: calibrate(block_of, block) for name, block_of in contestants.items()}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in contestants} for clock in CLOCKS}
    for turn in range(rounds):
        for name in rotated(list(contestants), turn):
            for clock, spent in zip(CLOCKS, contestants[name](repeats[name]), strict=True):
                seconds[clock][name].append(max(spent, 1e-12))
    return Race(reference, seconds)
