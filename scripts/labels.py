"""Train classifiers that are energy-based models, and write docs/labels.md.

    python scripts/labels.py out=docs [only=mixture,digits] [seeds=[0,1]]

One objective, jem, with several generative halves: on mixtures whose p(x) and p(y | x) are known, on digits with all
labels and with ten of each class, and on tables. Classifiers of scikit-learn stand beside it, on the same splits. The
seed of a run is also that of its data: each seed splits real data anew.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import labels_baselines as baselines
from pydantic import NonNegativeInt

from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError, one_of
from ebm_lab.core.files import write_atomic
from ebm_lab.runs.train import train

QUIET = "objective=jem logger=none threads=1 checkpoint_every=100000 eval_every=100000 output_dir=outputs/labels"
TEMPLATE = Path(__file__).resolve().parents[1] / "docs" / "studies" / "labels.md.j2"
PICTURES = {"samples_by_class": "labels_digits.png", "reliability": "labels_reliability.png"}
PICTURED = ("digits", "dsm", 0)
"""The run whose pictures the page shows."""

OVERLAPPING = "dataset=mixture dataset.weights=[.3,.7] dataset.means=[[-1,0],[1,.5]] dataset.std=.8"
SEPARATED = "dataset=mixture dataset.means=[[-4,0],[4,0]] dataset.weights=[.3,.7] dataset.std=.5"
TABLE = (
    "dataset.val=0.1 dataset.test=0.3 preprocess=standardize steps=500 "
    "batch_size=128 early_stopping=off objective.weight=0.1"
)
BLURRED = " objective.generative.sigma=0.5 energy.confine_shape=covariance energy.confine=1 energy.confine_floor=0.25"
"""Denoising at sigma = 0.5, from the Gaussian of the noisy rows."""
ALONE = "objective.generative=nce objective.weight=0"
"""Cross-entropy alone: a half of weight 0 is not run."""
HALF = "objective.generative={}"


SCORES = ("energy", "gradient", "typicality", "refined", "max_prob", "entropy", "nearest", "intensity")


class Study(NamedTuple):
    """groups: settings of data; rows: settings of runs on each; metrics: of a run's summary, with their digits;
    beside: the function of labels_baselines that gives further rows."""

    groups: dict[str, str]
    rows: dict[str, str]
    metrics: dict[str, int]
    evaluation: str
    beside: str | None = None


HALVES = {half: HALF.format(half) for half in ("pcd", "dsm", "nce")}
STUDIES = {
    "mixture": Study(
        {"overlapping": OVERLAPPING, "separated": SEPARATED},
        HALVES,
        {"nll_gap": 4, "label_kl": 4, "train_cpu_seconds": 0},
        "likelihood,calibration",
    ),
    "digits": Study(
        {"digits": "dataset=digits"},
        {
            "cross-entropy alone": ALONE,
            "dsm": HALVES["dsm"],
            "pcd, weight 0.1": HALVES["pcd"] + " objective.weight=0.1",
            "pcd, weight 1": HALVES["pcd"] + " objective.weight=1",
        },
        {
            **{"accuracy": 3, "ece": 3, "ece_scaled": 3, "confident_share": 3, "smallest_class_share": 3},
            **{"asked_class_share": 3, "train_cpu_seconds": 0},
        },
        "classifier,calibration,conditional",
        "of_digits",
    ),
    "few": Study(
        {"digits": "dataset=digits dataset.labels_per_class=10"},
        {"cross-entropy alone": ALONE, "dsm": HALVES["dsm"], "pcd": HALVES["pcd"] + " objective.weight=1"},
        {"accuracy": 3, "ece": 3, "train_cpu_seconds": 0},
        "calibration",
        "of_few",
    ),
    "tables": Study(
        {name: f"dataset={name} {TABLE}" for name in ("wine_cultivars", "breast_cancer")},
        {"dsm": HALVES["dsm"] + BLURRED, "nce": HALVES["nce"] + " energy.base=gaussian"},
        {"accuracy": 3, "ece": 3, "train_cpu_seconds": 0},
        "calibration",
        "of_table",
    ),
    "ood": Study(
        {"digits": "dataset=digits dataset.classes=[0,1,2,3,4,5,6,7]"},
        {"cross-entropy alone": ALONE, "dsm": HALVES["dsm"], "pcd": HALVES["pcd"] + " objective.weight=1"},
        {f"ood_auroc_{score}_outside": 3 for score in SCORES},
        "ood",
    ),
}
HEADS = {
    **{"nll_gap": "gap in log p(x), nats", "label_kl": "KL of p(y \\| x), nats", "train_cpu_seconds": "CPU-s"},
    **{f"ood_auroc_{score}_outside": score.replace("_", " ") for score in SCORES},
    **{"ece": "ECE", "ece_scaled": "ECE, scaled", "confident_share": "confident", "accuracy": "accuracy"},
    **{"smallest_class_share": "rarest class", "asked_class_share": "asked class"},
}


class Bar(NamedTuple):
    """What the mean over seeds must be. over: a row from whose mean it is the difference."""

    study: str
    group: str
    row: str
    metric: str
    least: bool
    bound: float
    over: str | None = None


MODELS = ("pcd, weight 1", "pcd, weight 0.1", "dsm")
BARS = [
    *(Bar("mixture", "overlapping", h, "label_kl", False, 0.003) for h in HALVES),
    Bar("mixture", "overlapping", "pcd", "nll_gap", False, 0.03),
    *(Bar("mixture", "overlapping", h, "nll_gap", False, 0.015) for h in ("dsm", "nce")),
    *(Bar("digits", "digits", m, "accuracy", True, 0.975) for m in MODELS),
    *(Bar("digits", "digits", m, "accuracy", True, -0.007, "cross-entropy alone") for m in MODELS),
    *(Bar("digits", "digits", m, "ece", False, 0.03) for m in MODELS),
    *(Bar("digits", "digits", m, "ece_scaled", False, 0.02) for m in MODELS),
    *(Bar("digits", "digits", m, "confident_share", True, 0.93) for m in MODELS),
    *(Bar("digits", "digits", m, "asked_class_share", True, 0.95) for m in MODELS),
    Bar("few", "digits", "pcd", "accuracy", True, 0.04, "cross-entropy alone"),
    Bar("few", "digits", "dsm", "accuracy", True, 0.06, "cross-entropy alone"),
]


def labels(*, out: str = "docs", only: str = ",".join(STUDIES), seeds: list[NonNegativeInt] | None = None) -> None:
    """Train the runs that are missing in <out>/labels.json, add them to it, and write <out>/labels.md.

    only: studies, separated by commas; seeds: 0 to 2 by default.
    """
    file = Path(out) / "labels.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for name in only.split(","):
        if name not in STUDIES:
            raise one_of("only", name, STUDIES)
    for seed in range(3) if seeds is None else seeds:
        for name in only.split(","):
            for group in STUDIES[name].groups:
                for row in STUDIES[name].rows:
                    key = {"study": name, "group": group, "row": row, "seed": seed}
                    if any(key.items() <= r.items() for r in done):
                        continue
                    done += measured(name, group, row, seed, Path(out), done)
                    write_atomic(file, "[\n" + ",\n".join(map(json.dumps, ordered(done))) + "\n]\n")
                    print(done[-1], flush=True)
    write_atomic(Path(out) / "labels.md", page(done))


def ordered(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows by study, group and seed; the rows of one group stay as they came."""
    return sorted(done, key=lambda r: (list(STUDIES).index(r["study"]), r["group"], r["seed"]))


def measured(name: str, group: str, row: str, seed: int, out: Path, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train one run and return its row, before those of the classifiers beside it that are not in `done` yet."""
    study, place = STUDIES[name], {"study": name, "group": group}
    own = f"{study.groups[group]} {study.rows[row]} evaluation=[{study.evaluation}] seed={seed} dataset.seed={seed}"
    run = train({**compose_config([*own.split(), *QUIET.split()]), "resume": "auto"}, quiet=True)
    if run.status != "finished":
        raise UserError(f"{run.path}: {run.status}; the same command continues")
    found = {k: v for k, v in run.summary.items() if k in study.metrics}
    if name == "digits":
        found["smallest_class_share"] = baselines.smallest_share(run)
    if (name, row, seed) == PICTURED:
        for picture, file in PICTURES.items():
            shutil.copyfile(next((run.path / "images").glob(f"{picture}_*.png")), out / file)
    rows = {row: found}
    if study.beside and not any({**place, "seed": seed}.items() <= r.items() for r in done):
        rows = {**getattr(baselines, study.beside)(run.dataset, baselines.known(run.dataset), seed), **rows}
    return [{**place, "row": r, "seed": seed, **{k: round(v, 5) for k, v in f.items()}} for r, f in rows.items()]


def values(done: list[dict[str, Any]], study: str, group: str, row: str, metric: str) -> dict[int, float]:
    """Return a metric by seed, of the runs that have it."""
    place = {"study": study, "group": group, "row": row}
    return {r["seed"]: r[metric] for r in done if metric in r and place.items() <= r.items()}


def table(done: list[dict[str, Any]], name: str) -> str:
    """Write a study's table: means over the seeds present, and their number."""
    study = STUDIES[name]
    mine = [r for r in done if r["study"] == name]
    several = len(study.groups) > 1
    heads = [*(["data"] if several else []), "model", *(HEADS[m] for m in study.metrics), "seeds"]
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


def verdict(bar: Bar, done: list[dict[str, Any]]) -> tuple[bool, str] | None:
    """Return whether the bar is reached, with a sentence that says it; None without runs."""
    v = values(done, *bar[:4])
    head = HEADS[bar.metric].replace("\\", "")
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
    return is_reached, f"- {bar.row}: {head} is {mean:.{min(digits, 5)}f}, where {limit} was asked for."


def bars(done: list[dict[str, Any]], name: str) -> str:
    """Say which of a study's bars are missed, and how many are reached."""
    told = [v for b in BARS if b.study == name and (v := verdict(b, done)) is not None]
    if not told:
        return "The runs so far decide none of the bars that were set beforehand."
    missed = [line for is_reached, line in told if not is_reached]
    first = f"Bars set beforehand that are reached: {len(told) - len(missed)} of {len(told)}."
    return "\n".join([first, *(["", "Missed:", ""] if missed else []), *missed])


def page(done: list[dict[str, Any]]) -> str:
    """Write the page from the runs."""
    from jinja2 import Environment, StrictUndefined

    there = [name for name in STUDIES if any(r["study"] == name for r in done)]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        table={n: table(done, n) for n in there},
        bars={n: bars(done, n) for n in there},
        pictured=f"{PICTURED[1]}, seed {PICTURED[2]}",
        test_digits=270,
        table_steps=500,
    )


if __name__ == "__main__":
    main(labels)
