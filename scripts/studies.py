"""Train the runs of docs/studies.md: where families fail, the noise of NCE, the number of noise levels.

    python scripts/studies.py out=docs [only=levels_digits,blindness] [root=data]

Each study trains a preset of configs/experiment with one or two keys varied, with seed 0 and one thread, one run after
the other in this process, and writes <out>/studies/<study>.csv; docs/studies.md is then written from those files. A run
that is in the csv is not repeated.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import ebm_lab
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.functional import evaluate
from ebm_lab.runs.train import Result

OBJECTIVES = ("cd", "pcd", "nce", "ssm", "dsm", "multi_dsm")


class Study(NamedTuple):
    """A table of runs: a preset, the overrides of each row and column, and the metrics to keep."""

    preset: str
    rows: dict[str, str]
    columns: dict[str, str]
    metrics: tuple[str, ...]
    more: str = ""


def weight_error(run: Result) -> float:
    """Compute the model's mass below 0, where the lighter mode is, minus the data's, by quadrature on the line."""
    x = torch.linspace(-12, 12, 4801)[:, None]
    true = run.dataset.log_prob(x)
    assert true is not None, "it is a mixture"
    with torch.no_grad():
        p, q = (torch.softmax(v.double(), 0)[x[:, 0] < 0].sum() for v in (-evaluate(run.energy, x), true))
    return float(p - q)


DERIVED: dict[str, Callable[[Result], float]] = {"weight_error": weight_error}
ONE = "evaluation=[likelihood]"
IMAGES, POINTS = "evaluation=[mmd,classifier]", "evaluation=[mmd,flow_likelihood,likelihood]"
LEVELS = {str(n): f"energy.levels={n} sampler.steps={600 // n}" for n in (2, 5, 10, 20)}
STUDIES = {
    "blindness": Study(
        "blindness",
        {o: f"objective={o}" for o in OBJECTIVES},
        {f"{2 * m / 0.5:g}": f"dataset.means=[-{m},{m}]" for m in (1.0, 2.0, 4.0)},
        ("nll_gap", "weight_error"),
        ONE,
    ),
    "short_chains": Study(
        "short_chains",
        {
            "mle": "objective=mle objective.refresh=0",
            "cd": "objective=cd",
            "pcd": "objective=pcd objective.refresh=0",
        },
        {str(k): f"sampler.steps={k}" for k in (1, 4, 16, 64)},
        ("nll_gap",),
        ONE,
    ),
    "nce_noise": Study(
        "nce_noise",
        {
            **{law: f"objective.noise={law}" for law in ("flow", "mixture", "gaussian", "uniform")},
            **{f"gaussian, {w} times as wide": f"objective.widen={w}" for w in (2, 4)},
        },
        {f"{k}": f"objective.noise_ratio={k}" for k in (1, 10)},
        ("nll_gap", "log_z_error"),
        ONE,
    ),
    "ssm_wine": Study(
        "ssm_wine",
        {
            **{o: f"objective={o} objective.data_noise=0.05" for o in ("sm", "ssm", "fdssm")},
            "dsm": "objective=dsm objective.sigma=0.05",
        },
        {"": ""},
        ("sm_loss", "sm_loss_se", "sm_loss_gaussian", "sm_loss_noise", "mmd2", "mmd2_floor"),
    ),
    "levels_digits": Study(
        "levels_digits",
        {"1 (dsm)": "objective=dsm ~objective.levels sample_steps=600", **LEVELS},
        {"": ""},
        ("confident_share", "confident_share_real", "classes_found", "mmd2", "mmd2_floor"),
        IMAGES,
    ),
    "levels_points": Study(
        "levels_points",
        {"1 (dsm)": "objective=dsm ~objective.levels ~objective.time_weight sample_steps=600", **LEVELS},
        {"": ""},
        ("nll_gap", "flow_nll_gap", "mmd2", "mmd2_floor"),
        POINTS,
    ),
}


def studies(*, out: str = "docs", only: str = ",".join(STUDIES), root: str = "data") -> None:
    """Train the missing runs of the studies, write their tables, and write docs/studies.md from them.

    root: the directory of the wine tables.
    """
    folder = Path(out) / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    for name in only.split(","):
        if name not in STUDIES:
            raise one_of("only", name, STUDIES)
        try:
            fill(STUDIES[name], folder / f"{name}.csv", root)
        except UserError as error:
            print(f"{name}: left out: {error}")
    write_page(Path(out))


def fill(study: Study, path: Path, root: str) -> None:
    """Train the runs that are missing in `path`."""
    rows = read(path)
    there = {(r["row"], r["column"]) for r in rows}
    for row, own in study.rows.items():
        for column, other in study.columns.items():
            if (row, column) in there:
                continue
            done = {"row": row, "column": column, **run(study, f"{own} {other}", root)}
            rows.append(done)
            order = [(r, c) for r in study.rows for c in study.columns]
            rows.sort(key=lambda r: order.index((r["row"], r["column"])))
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(
                    file, ["row", "column", *study.metrics, "status", "command"], extrasaction="ignore"
                )
                writer.writeheader()
                writer.writerows(rows)
            print(path.stem, row, column, {k: done[k] for k in study.metrics}, flush=True)


def run(study: Study, own: str, root: str) -> dict[str, Any]:
    """Train one run; return its metrics to four digits, its status, and the command that repeats it."""
    words = [f"experiment={study.preset}", *own.split(), *study.more.split(), "seed=0"]
    wine = [f"dataset.root={root}"] if study.preset == "ssm_wine" else []
    result = ebm_lab.train([*words, *wine, "logger=none", "threads=1", "output_dir=outputs/studies"], quiet=True)
    found = result.summary | {name: f(result) for name, f in DERIVED.items() if name in study.metrics}
    numbers = {k: f"{found[k]:.4g}" if k in found else "" for k in study.metrics}
    return {**numbers, "status": result.status, "command": " ".join(["python train.py", *words])}


def read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]], metric: str, corner: str) -> str:
    """Make a Markdown table of one metric, rows against columns, with the status of a run that did not finish."""
    columns = list(dict.fromkeys(r["column"] for r in rows))
    cells = {(r["row"], r["column"]): show(r, metric) for r in rows}
    head = [corner, *columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in dict.fromkeys(r["row"] for r in rows):
        lines.append("| " + " | ".join([row, *(cells.get((row, c), "") for c in columns)]) + " |")
    return "\n".join(lines)


def wide(rows: list[dict[str, str]], metrics: list[str], corner: str) -> str:
    """Make a Markdown table of many metrics, with a row for each run."""
    lines = ["| " + " | ".join([corner, *metrics]) + " |", "|" + "---|" * (len(metrics) + 1)]
    lines += ["| " + " | ".join([r["row"], *(show(r, m) for m in metrics)]) + " |" for r in rows]
    return "\n".join(lines)


def show(row: dict[str, str], metric: str) -> str:
    text = row[metric]
    if text and math.isfinite(float(text)):
        size = abs(float(text))
        text = f"{float(text):.1f}" if size >= 10 else f"{float(text):.2g}" if size < 0.1 else f"{float(text):.2f}"
    return " ".join(filter(None, [text or "-", "" if row["status"] == "finished" else f"({row['status']})"]))


def write_page(out: Path) -> None:
    """Write docs/studies.md from its template, in which every number is a call of `table`, `wide` or `text`."""
    from jinja2 import Environment, StrictUndefined

    folder = out / "studies"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8").strip() if (folder / name).is_file() else "(not run)"

    def made(name: str, metric: str, corner: str) -> str:
        rows = read(folder / f"{name}.csv")
        return table(rows, metric, corner) if rows else "(not run)"

    def made_wide(name: str, corner: str) -> str:
        rows = read(folder / f"{name}.csv")
        return wide(rows, list(STUDIES[name].metrics), corner) if rows else "(not run)"

    template = folder / "studies.md.j2"
    if template.is_file():
        page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
            template.read_text(encoding="utf-8")
        )
        (out / "studies.md").write_text(page.render(table=made, wide=made_wide, text=text), encoding="utf-8")
        print(out / "studies.md")


if __name__ == "__main__":
    main(studies)
