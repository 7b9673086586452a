"""Write the tables and the page of a comparison: comparison.md, and index.html with all pictures embedded.

For documents, `publish` copies the files of a study, and `tables` renders its tables from these copies.
"""

import base64
import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebm_lab.core.files import dumps, write_atomic
from ebm_lab.reports.compare.chart import chart
from ebm_lab.reports.compare.columns import Cell, Column, best, cell, columns, fastest, number
from ebm_lab.reports.compare.images import group, montage
from ebm_lab.reports.compare.plan import safe
from ebm_lab.reports.compare.runner import metrics
from ebm_lab.reports.compare.table import Line, Row, curve, lines, middle_curve, read_csv
from ebm_lab.runs.run_directory import RunDir

UNITS = {
    "cpu_seconds": "CPU-seconds",
    "grad_evals": "gradient evaluations",
    "steps": "parameter updates",
}


@dataclass(frozen=True)
class Picture:
    """A picture on the page. `source`: a data URL."""

    title: str
    source: str


@dataclass(frozen=True)
class Section:
    """The part of the page for one data set. `findings`: sentences on the best and worst arms."""

    name: str
    about: str
    columns: list[Column]
    lines: list[tuple[Line, list[Cell]]]
    findings: list[str]
    pictures: list[Picture] = field(default_factory=list)
    chart: str = ""


def label(line: Line) -> str:
    return " ".join(filter(None, (line.arm.objective, line.arm.vary)))


def sections(rows: Sequence[Row], about: Mapping[str, str], asked: Sequence[str] = ()) -> list[Section]:
    """Return the sections with tables but without pictures or charts."""
    every = lines(rows)
    found = []
    for name in dict.fromkeys(n.arm.dataset for n in every):
        mine = [n for n in every if n.arm.dataset == name]
        shown = columns(mine, asked)
        cells = [(n, [cell(n, c) for c in shown]) for n in mine]
        found.append(Section(name, about.get(f"dataset/{name}", ""), shown, cells, findings(name, mine)))
    return found


def findings(name: str, mine: Sequence[Line]) -> list[str]:
    """Return in words which arms of a data set are best, worst and fastest."""
    said, pair, first = [], best(mine), fastest(mine)
    if pair:
        low, high = pair
        assert low.gap and high.gap
        said.append(f"{name}: {label(low)} has the least median gap, {number(low.gap.middle)} nats")
        greatest = f"{label(high)} has the greatest, {number(high.gap.middle)}"
        said[0] += f"; {greatest}." if math.isfinite(high.gap.middle) else f"; {label(high)} diverged."
    if first:
        time = number(first.spreads["cpu_seconds_to"].middle)
        said.append(f"{name}: {label(first)} reaches 0.1 nats first, after {time} CPU-seconds in the median.")
    return said


def curves(rows: Sequence[Row], mine: Sequence[Line], out: Path) -> dict[str, list]:
    """Return the median curve of each arm by its label."""
    found = {}
    for line in sorted(mine, key=lambda n: (n.arm.objective, n.arm.vary)):
        runs = [r for r in rows if (r["objective"], r["dataset"], r["vary"] or "") == tuple(vars(line.arm).values())]
        finished = [RunDir(out / r["run"]) for r in runs if r["status"] == "finished"]
        found[label(line)] = middle_curve([curve(metrics(run), run.read_summary()) for run in finished])
    return found


def inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def write(rows: Sequence[Row], out: Path, pictures: Mapping[str, Path], facts: Mapping[str, Any]) -> list[Path]:
    """Write index.html, and comparison.md with its pictures; returns the files written.

    `facts` is described by `Facts` in cli/compare.py.
    """
    made, complete = [], []
    for section in sections(rows, facts["about"], facts["columns"]):
        mine = [line for line, _ in section.lines]
        names = dict.fromkeys(f"truth of {group(n)}" for n in mine)
        shown = [Picture(name, inline(pictures[name])) for name in names if name in pictures]
        shown += [Picture(label(n), inline(pictures[n.arm.name])) for n in mine if n.arm.name in pictures]
        svg = chart(curves(rows, mine, out), f"gap to the truth over training time, {section.name}")
        complete.append(Section(**{**vars(section), "pictures": shown, "chart": svg}))
        for path in (out / f"{safe(section.name)}_gap.svg", out / f"{safe(section.name)}_models.png"):
            path.unlink(missing_ok=True)
            if path.suffix == ".svg" and svg:
                path.write_text(svg, encoding="utf-8", errors="backslashreplace")
            elif path.suffix == ".png":
                montage(mine, dict(pictures), path)
            made += [path] if path.is_file() else []
    context = {
        **common(rows, facts),
        "sections": complete,
        "rows": rows,
        "methods": {r["objective"]: facts["about"].get(f"objective/{r['objective']}", "") for r in rows},
        "troubles": [r for r in rows if r["status"] != "finished"],
        "legend": list(dict.fromkeys(c for s in complete for c in s.columns)),
        "total": number(sum(r.get("cpu_seconds") or 0.0 for r in rows) / 3600),
    }
    write_atomic(out / "facts.json", dumps(facts, indent=2) + "\n")
    (out / "index.html").write_text(render("page.html", context), encoding="utf-8", errors="backslashreplace")
    (out / "comparison.md").write_text(
        tables(out / "comparison.csv", out / "facts.json", out, "", out), encoding="utf-8", errors="backslashreplace"
    )
    return [*made, out / "comparison.md", out / "index.html"]


def common(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    study = facts["study"]
    budget = "what its recipe says" if study["budget"] is None else f"{number(study['budget'])} {UNITS[study['unit']]}"
    seeds = sorted({r["seed"] for r in rows})
    told = {"facts": facts, "budget": budget, "overrides": shlex.join(study["overrides"]), "seeds": seeds}
    return told | {"measured": study["unit"] == "cpu_seconds"}


def tables(csv: Path, facts: Path, folder: Path, prefix: str, base: Path) -> str:
    """Render the tables as Markdown from comparison.csv and facts.json.

    The pictures <folder>/<prefix><data set>_... that exist are linked relative to `base`.
    """
    rows, known = read_csv(csv), json.loads(facts.read_text(encoding="utf-8"))
    found = sections(rows, known["about"], known["columns"])
    pictures = {}
    for section in found:
        names = [folder / f"{prefix}{safe(section.name)}_{kind}" for kind in ("gap.svg", "models.png")]
        pictures[section.name] = [path.relative_to(base).as_posix() for path in names if path.is_file()]
    return render("tables.md", {**common(rows, known), "sections": found, "pictures": pictures})


def publish(out: Path, folder: Path, study: str) -> list[Path]:
    """Copy the files of a comparison that a document needs to `folder`, under the study's name."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = folder / f"{study}.csv"
    for name in {safe(r["dataset"]) for r in read_csv(earlier)} if earlier.is_file() else ():
        for kind in ("gap.svg", "models.png"):
            (folder / f"{study}_{name}_{kind}").unlink(missing_ok=True)
    sources = {out / "comparison.csv": f"{study}.csv", out / "facts.json": f"{study}.json"}
    for name in dict.fromkeys(safe(r["dataset"]) for r in read_csv(out / "comparison.csv")):
        pictures = [out / f"{name}_gap.svg", out / f"{name}_models.png"]
        sources |= {path: f"{study}_{path.name}" for path in pictures if path.is_file()}
    return [Path(shutil.copyfile(source, folder / name)) for source, name in sources.items()]


def render(template: str, context: Mapping[str, Any]) -> str:
    """Render a template of this package; in HTML all values are escaped."""
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
    """Escape `text` for a cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def machine() -> dict[str, str]:
    """Describe this machine: processor and number of cores."""
    import os
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    return {"processor": processor, "cores": f"{os.cpu_count()} cores"}
