"""Render a document whose numbers are taken from published comparisons.

The source is a Jinja template beside the document, with the functions

    {{ tables("<study>") }}                                 tables and pictures of a published comparison
    {{ value("<study>", "<data set>", "<objective>") }}     the median gap; options: column="...", vary="key=value"
    {{ spread(...) }}                                       the same with its range over seeds
    {{ best("<study>", "<data set>") }}                     the objective of the least median gap; n=2: the next
    {% if figure(...) < figure(...) %}                      the median as a number, infinite if there is none; makes a
                                                            claim appear only if the study supports it
    {% for data in datasets("<study>") %}                   the names of its data sets
    {{ measured("<name>", "<metric>", digits=3) }}          a number of <name>.evaluation.json or <name>.summary.json

A study consists of the files that `compare.py publish=<folder> name=<study>` wrote; an evaluation is a copy of the file
that `evaluate.py` wrote for one run, and a summary that of the run itself.
"""

import math
from collections.abc import Callable
from pathlib import Path

from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.files import loads
from ebm_lab.reports.compare import page
from ebm_lab.reports.compare.columns import cell
from ebm_lab.reports.compare.columns import column as column_of
from ebm_lab.reports.compare.table import Line, lines, read_csv


def render(source: Path, folder: Path, target: Path) -> None:
    """Fill the template `source` with the studies in `folder`, and write the result to `target`."""
    from jinja2 import Environment, StrictUndefined, TemplateError

    if not source.is_file():
        raise UserError(f"source={source}: no such file")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    try:
        text = environment.from_string(source.read_text(encoding="utf-8")).render(**functions(folder, target.parent))
    except TemplateError as error:
        raise UserError(f"{source}: {error}") from None
    target.write_text(text, encoding="utf-8")


def functions(folder: Path, base: Path) -> dict[str, Callable]:
    """Return the functions for templates, by name."""

    def rows(study: str) -> list[Line]:
        return lines(read_csv(folder / f"{study}.csv"))

    def line(study: str, dataset: str, objective: str, vary: str) -> Line:
        found = {(n.arm.dataset, n.arm.objective, n.arm.vary): n for n in rows(study)}
        if (dataset, objective, vary) not in found:
            allowed = ", ".join(" ".join(filter(None, key)) for key in found)
            raise UserError(f"study {study}: no row '{dataset} {objective} {vary}'; there are: {allowed}")
        return found[dataset, objective, vary]

    def value(study: str, dataset: str, objective: str, column: str = "nll_gap", vary: str = "") -> str:
        row = line(study, dataset, objective, vary)
        if column not in row.spreads:
            raise one_of(f"column of {study}, {dataset} {objective}", column, row.spreads)
        return cell(row, column_of(column)).text

    def figure(study: str, dataset: str, objective: str, column: str = "nll_gap", vary: str = "") -> float:
        row = {(n.arm.dataset, n.arm.objective, n.arm.vary): n for n in rows(study)}.get((dataset, objective, vary))
        return row.spreads[column].middle if row is not None and column in row.spreads else math.inf

    def spread(study: str, dataset: str, objective: str, column: str = "nll_gap", vary: str = "") -> str:
        middle = value(study, dataset, objective, column, vary)
        extent = cell(line(study, dataset, objective, vary), column_of(column)).range
        return f"{middle} ({extent})" if extent else middle

    def datasets(study: str) -> list[str]:
        return list(dict.fromkeys(n.arm.dataset for n in rows(study)))

    def best(study: str, dataset: str, n: int = 1) -> str:
        ranked = [x for x in rows(study) if x.arm.dataset == dataset and x.gap is not None]
        if not 1 <= n <= len(ranked):
            raise UserError(
                f"study {study}: {len(ranked)} objectives on '{dataset}' have a gap, so there is no number {n}"
            )
        return page.label(ranked[n - 1])

    def measured(name: str, metric: str, digits: int = 3) -> str:
        files = [folder / f"{name}.{kind}.json" for kind in ("evaluation", "summary")]
        file = next((f for f in files if f.is_file()), None)
        if file is None:
            raise UserError(
                f"{files[0]}: no such file; it is a copy of a run's evaluation/evaluation.json. Nor is there "
                f"{files[1].name}, a copy of a run's summary.json"
            )
        record = loads(file.read_text(encoding="utf-8"))
        if metric not in record:
            raise one_of(f"metric of {file.name}", metric, [k for k, v in record.items() if isinstance(v, float | int)])
        value = record[metric]
        return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"

    def tables(study: str) -> str:
        for end in ("csv", "json"):
            if not (folder / f"{study}.{end}").is_file():
                raise UserError(
                    f"{folder / study}.{end}: no such file; compare.py publish={folder} name={study} writes it"
                )
        return page.tables(folder / f"{study}.csv", folder / f"{study}.json", folder, f"{study}_", base)

    found = (tables, value, spread, best, figure, datasets, measured)
    return {function.__name__: function for function in found}
