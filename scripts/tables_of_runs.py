"""Studies: tables of training runs, made run by run, with the bars that were set for them beforehand.

A study trains each of its rows on each of its groups of data, with several seeds. Its runs are kept in a JSON file, one
object each, so that a rerun trains only what is missing, and its tables show means over the seeds that are there.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebm_lab.cli.compose import compose_config
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.files import write_atomic
from ebm_lab.runs.train import Result, train

Row = dict[str, Any]
"""A run: its study, group, row and seed, and its metrics by name."""


class Study(NamedTuple):
    """groups: settings of data; rows: settings of runs on each; metrics: of a run's summary, with their digits;
    evaluation: the evaluations to run, separated by commas; beside: further rows of a run, by name."""

    groups: dict[str, str]
    rows: dict[str, str]
    metrics: dict[str, int]
    evaluation: str
    beside: Callable[[Result, int], dict[str, dict[str, float]]] | None = None


class Bar(NamedTuple):
    """What the mean over seeds must be. over: a row from whose mean it is the difference."""

    study: str
    group: str
    row: str
    metric: str
    least: bool
    bound: float
    over: str | None = None


class Studies(NamedTuple):
    """Studies by name, with the bars and the heads of columns. always: settings of every run; seen: called with each
    run and its place, and returns further metrics."""

    studies: dict[str, Study]
    bars: Sequence[Bar]
    heads: dict[str, str]
    always: str
    seen: Callable[[Result, Row], dict[str, float]] = lambda run, place: {}

    def complete(self, file: Path, only: str, seeds: Sequence[int]) -> list[Row]:
        """Train the runs that `file` lacks, of the studies `only`, separated by commas; return all rows."""
        done: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        names = only.split(",") if only else []
        for name in names:
            if name not in self.studies:
                raise one_of("only", name, self.studies)
        for seed in seeds:
            for name in names:
                for group in self.studies[name].groups:
                    for row in self.studies[name].rows:
                        place = {"study": name, "group": group, "row": row, "seed": seed}
                        if any(place.items() <= r.items() for r in done):
                            continue
                        done += self._measured(place, done)
                        write_atomic(file, "[\n" + ",\n".join(map(json.dumps, self._ordered(done))) + "\n]\n")
                        print(done[-1], flush=True)
        return done

    def _ordered(self, done: list[Row]) -> list[Row]:
        """Sort rows by study, group and seed; the rows of one group stay as they came."""
        names = list(self.studies)
        return sorted(done, key=lambda r: (names.index(r["study"]), r["group"], r["seed"]))

    def _measured(self, place: Row, done: list[Row]) -> list[Row]:
        """Train one run and return its row, after those beside it that are not in `done` yet."""
        study, seed = self.studies[place["study"]], place["seed"]
        own = f"{study.groups[place['group']]} {study.rows[place['row']]} evaluation=[{study.evaluation}]"
        own += f" seed={seed} dataset.seed={seed} {self.always}"
        run = train({**compose_config(own.split()), "resume": "auto"}, quiet=True)
        if run.status != "finished":
            raise UserError(f"{run.path}: {run.status}; the same command continues")
        found = {k: v for k, v in run.summary.items() if k in study.metrics} | self.seen(run, place)
        rows = {place["row"]: found}
        there = {"study": place["study"], "group": place["group"], "seed": seed}
        if study.beside and not any(there.items() <= r.items() for r in done):
            rows = {**study.beside(run, seed), **rows}
        return [{**place, "row": r, **{k: round(v, 5) for k, v in f.items()}} for r, f in rows.items()]

    def table(self, done: list[Row], name: str) -> str:
        """Write a study's table: means over the seeds present, and their number."""
        study = self.studies[name]
        mine = [r for r in done if r["study"] == name]
        several = len(study.groups) > 1
        heads = [*(["data"] if several else []), "model", *(self.heads[m] for m in study.metrics), "seeds"]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for group in study.groups:
            there = list(dict.fromkeys(r["row"] for r in mine if r["group"] == group))
            for row in sorted(there, key=lambda r: [*study.rows].index(r) if r in study.rows else -1):
                cells = [f"**{row}**" if row in study.rows else row]
                for metric, digits in study.metrics.items():
                    v = list(values(mine, name, group, row, metric).values())
                    cells.append(f"{sum(v) / len(v):.{digits}f}" if v else "")
                seeds = sum(r["group"] == group and r["row"] == row for r in mine)
                lines.append("| " + " | ".join([*([group] if several else []), *cells, str(seeds)]) + " |")
        return "\n".join(lines)

    def verdict(self, bar: Bar, done: list[Row]) -> tuple[bool, str] | None:
        """Return whether the bar is reached, with a sentence that says it; None without runs."""
        v = values(done, *bar[:4])
        head = self.heads[bar.metric].replace("\\", "")
        if bar.over is not None:
            other = values(done, bar.study, bar.group, bar.over, bar.metric)
            v = {s: x - other[s] for s, x in v.items() if s in other}
            head += f" less that of {bar.over}"
        if not v:
            return None
        mean = sum(v.values()) / len(v)
        is_reached = mean >= bar.bound - 1e-9 if bar.least else mean <= bar.bound + 1e-9
        digits = max(3, 1 - math.floor(math.log10(abs(mean)))) if mean else 3
        limit = f"at {'least' if bar.least else 'most'} {bar.bound:g}"
        where = f" on {bar.group}" if len(self.studies[bar.study].groups) > 1 else ""
        return is_reached, f"- {bar.row}{where}: {head} is {mean:.{min(digits, 5)}f}, where {limit} was asked for."

    def verdicts(self, done: list[Row], name: str) -> str:
        """Say which of a study's bars are missed, and how many are reached."""
        told = [v for b in self.bars if b.study == name and (v := self.verdict(b, done)) is not None]
        if not told:
            return "The runs so far decide none of the targets that were set before them."
        missed = [line for is_reached, line in told if not is_reached]
        first = f"Targets set before the runs: {len(told) - len(missed)} of {len(told)} are met."
        return "\n".join([first, *(["", "Missed:", ""] if missed else []), *missed])

    def render(self, template: Path, done: list[Row], **more: Any) -> str:
        """Fill a page's template with the tables and verdicts of the studies that have runs, and with `more`."""
        from jinja2 import Environment, StrictUndefined

        there = [name for name in self.studies if any(r["study"] == name for r in done)]
        text = template.read_text(encoding="utf-8")
        page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
        tables, bars = ({n: told(done, n) for n in there} for told in (self.table, self.verdicts))
        return page.render(table=tables, bars=bars, **more)


def values(done: list[Row], study: str, group: str, row: str, metric: str) -> dict[int, float]:
    """Return a metric by seed, of the runs that have it."""
    place = {"study": study, "group": group, "row": row}
    return {r["seed"]: r[metric] for r in done if metric in r and place.items() <= r.items()}
