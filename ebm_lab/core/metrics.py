"""Declarations of metrics: what each measures, and which direction is better."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

Place = Literal["compare", "report", "sweep"]


class Metric(NamedTuple):
    """A metric, or a family of metrics if its name contains *.

    title and meaning: as shown in tables; good: the better direction, if there is one; monitors: whether the lowest
    value on the validation split selects the best checkpoint; shown: the tables that show it by default; rank: its
    position there, and among the monitors, lowest first.
    """

    name: str
    title: str = ""
    unit: str = ""
    good: Literal["lower", "higher", ""] = ""
    meaning: str = ""
    monitors: bool = False
    shown: tuple[Place, ...] = ()
    rank: int = 100


class Table:
    """Metrics by name, in the order of their ranks."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = {m.name: m for m in sorted(metrics, key=lambda m: m.rank)}

    def find(self, name: str) -> Metric | None:
        """Return the declaration of a metric: its own, or else that of its family."""
        own = self.metrics.get(name)
        return own or next((m for m in self.metrics.values() if "*" in m.name and fnmatchcase(name, m.name)), None)

    def shown(self, place: Place) -> list[Metric]:
        """Return the metrics that a table shows by default."""
        return [m for m in self.metrics.values() if place in m.shown]

    def good(self, direction: Literal["lower", "higher"]) -> list[str]:
        """Return the names of the metrics for which this direction is better."""
        return [m.name for m in self.metrics.values() if m.good == direction]

    @property
    def monitors(self) -> list[str]:
        """The names of the metrics that may choose the best checkpoint."""
        return [m.name for m in self.metrics.values() if m.monitors]
