"""A table of the metrics, <run>/metrics.csv, for spreadsheets and data frames."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ebm_lab.core.files import write_atomic
from ebm_lab.core.interfaces import RunInfo
from ebm_lab.core.registry import register


@register("logger", "csv")
class CSV:
    """Write metrics.csv: a row for each step, a column for each metric; an empty cell where a step has no value.

    A line is appended as long as the columns stay the same. The file is written anew where a metric is new, and where
    the step does not increase: then the rows from that step on, of before a rollback or a kill, are dropped.
    """

    def __init__(self, info: RunInfo) -> None:
        self.path = info.path / "metrics.csv"
        self.columns: list[str] = []
        self.step: int | None = None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        row = {"step": step, **values}
        if self.step is not None and step > self.step and row.keys() <= set(self.columns):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_lines(self.columns, [row]))
        else:
            self._rewrite(row)
        self.step = step

    def _rewrite(self, row: dict[str, Any]) -> None:
        known = self._read()
        same = next((r for r in known if self.step == row["step"] == int(r["step"])), {})
        rows = [*(r for r in known if int(r["step"]) < row["step"]), {**same, **row}]
        self.columns = list(dict.fromkeys(name for r in rows for name in r))
        head = dict.fromkeys(self.columns)
        write_atomic(self.path, _lines(self.columns, [{name: name for name in head}, *rows]))

    def _read(self) -> list[dict[str, Any]]:
        """Read the rows so far, without the incomplete last one that a kill can leave."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        return [row for row in csv.DictReader(io.StringIO(whole)) if row["step"]]

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Do nothing: a table has no pictures; they are in the run's directory."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: no file is open."""


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()
