"""The tables and the page of a comparison: comparison.md, and index.html with every picture inside it."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebm_lab.compare.chart import chart
from ebm_lab.compare.columns import Cell, Column, best, cell, columns, fastest, number
from ebm_lab.compare.images import group, montage
from ebm_lab.compare.plan import Study, safe
from ebm_lab.compare.runner import metrics
from ebm_lab.compare.table import Line, Row, curve, lines, middle_curve
from ebm_lab.training.rundir import RunDir

UNITS = {
    "cpu_seconds": "CPU-seconds",
    "grad_evals": "gradient evaluations",
    "steps": "parameter updates",
}


@dataclass(frozen=True)
class Picture:
    title: str
    source: str


@dataclass(frozen=True)
class Section:
    """A data set's part of the page."""

    name: str
    about: str
    columns: list[Column]
    lines: list[tuple[Line, list[Cell]]]
    told: list[str]
    pictures: list[Picture] = field(default_factory=list)
    chart: str = ""


def label(line: Line) -> str:
    return " ".join(filter(None, (line.arm.objective, line.arm.vary)))


def sections(rows: Sequence[Row], about: Mapping[str, str], asked: Sequence[str] = ()) -> list[Section]:
    """Tables without pictures, from rows alone."""
    every = lines(rows)
    found = []
    for name in dict.fromkeys(n.arm.dataset for n in every):
        mine = [n for n in every if n.arm.dataset == name]
        shown = columns(mine, asked)
        cells = [(n, [cell(n, c) for c in shown]) for n in mine]
        found.append(Section(name, about.get(f"dataset/{name}", ""), shown, cells, told(name, mine)))
    return found


def told(name: str, mine: Sequence[Line]) -> list[str]:
    """What the table's best and worst are, in words."""
    said, pair, first = [], best(mine), fastest(mine)
    if pair:
        low, high = pair
        assert low.gap and high.gap
        said.append(f"{name}: the least gap is {label(low)}'s, {number(low.gap.middle)} nats in the median")
        said[0] += f"; the greatest is {label(high)}'s, {number(high.gap.middle)}."
    if first:
        time = number(first.spreads["cpu_seconds_to"].middle)
        said.append(f"{name}: {label(first)} comes to 0.1 nats first, after {time} CPU-seconds in the median.")
    return said


def curves(rows: Sequence[Row], mine: Sequence[Line]) -> dict[str, list]:
    """The median curve of each arm, by its label."""
    found = {}
    for line in sorted(mine, key=lambda n: (n.arm.objective, n.arm.vary)):
        runs = [r for r in rows if (r["objective"], r["dataset"], r["vary"] or "") == tuple(vars(line.arm).values())]
        whole = [RunDir(Path(r["run"])) for r in runs if r["status"] == "finished"]
        found[label(line)] = middle_curve([curve(metrics(run), run.read_summary()) for run in whole])
    return found


def inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def write(
    rows: Sequence[Row],
    study: Study,
    out: Path,
    pictures: Mapping[str, Path],
    facts: Mapping[str, Any],
    about: Mapping[str, str],
    asked: Sequence[str] = (),
) -> list[Path]:
    """comparison.md with its pictures beside it, and index.html. `facts`: command, machine, commit; `about`: by
    'objective/<name>' and 'dataset/<name>', a line on each. Returns what was written."""
    made, whole, files = [], [], {}
    for section in sections(rows, about, asked):
        mine = [line for line, _ in section.lines]
        names = dict.fromkeys(f"truth of {group(n)}" for n in mine)
        shown = [Picture(name, inline(pictures[name])) for name in names if name in pictures]
        shown += [Picture(label(n), inline(pictures[n.arm.name])) for n in mine if n.arm.name in pictures]
        svg = chart(curves(rows, mine), f"gap to the truth over training time, {section.name}")
        whole.append(Section(**{**vars(section), "pictures": shown, "chart": svg}))
        files[section.name] = {"chart": f"{safe(section.name)}_gap.svg", "pictures": f"{safe(section.name)}_models.png"}
        if svg:
            made.append(out / files[section.name]["chart"])
            made[-1].write_text(svg)
        if montage(mine, dict(pictures), out / files[section.name]["pictures"]):
            made.append(out / files[section.name]["pictures"])
    context = {
        "sections": whole,
        "files": files,
        "there": {path.name for path in made},
        "facts": facts,
        "about": about,
        "budget": f"{number(study.budget)} {UNITS[study.unit]}",
        "overrides": shlex.join(study.overrides),
        "seeds": sorted({r["seed"] for r in rows}),
        "rows": rows,
        "troubles": [r for r in rows if r["status"] != "finished"],
        "legend": list(dict.fromkeys(c for s in whole for c in s.columns)),
        "total": number(sum(r.get("cpu_seconds") or 0.0 for r in rows) / 3600),
    }
    for template, name in (("page.html", "index.html"), ("tables.md", "comparison.md")):
        made.append(out / name)
        made[-1].write_text(render(template, context))
    return made


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template beside this file; in HTML everything from outside is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "label": label, "md": markdown}
    return environment.get_template(template).render(context)


def markdown(text: object) -> str:
    """`text` within a cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def machine() -> dict[str, str]:
    """This machine in words: processor, cores, system."""
    import os
    import platform

    info = Path("/proc/cpuinfo")
    told = info.read_text().splitlines() if info.is_file() else []
    models = [text.split(":", 1)[1].strip() for text in told if text.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    return {"processor": processor, "cores": f"{os.cpu_count()} cores"}
