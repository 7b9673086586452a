"""Detect anomalies in three data sets inside scikit-learn, and write docs/anomalies.md.

    python scripts/anomalies.py out=docs [only=wine_cultivars,digits] [seeds=0,1]

Each class in turn is the anomaly, and a model is trained on the others' rows alone. Its scores and those of common
detectors are compared by AUROC, the probability that a row of the anomalous class scores higher than a held-out normal
row. All columns of a data set are in units of their standard deviation on the training split, all pixels of the digits
in one unit, the square root of their mean variance.
"""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor

from ebm_lab.cli.compose import compose_config
from ebm_lab.cli.tools import main
from ebm_lab.core.errors import one_of
from ebm_lab.core.files import write_atomic
from ebm_lab.core.functional import evaluate, flat_sum
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import build
from ebm_lab.distributions.bandwidth import bandwidth
from ebm_lab.evaluation.ood import residual
from ebm_lab.models.levels import data_score
from ebm_lab.runs.train import Result, train
from ebm_lab.statistics.detection import detection

TRAIN = (
    "objective=dsm energy=mlp energy.confine_shape=covariance energy.confine=1 "
    "domain=points preprocess=none evaluation=[] dataset.val=0.1 dataset.test=0.3"
)
"""The settings of every run: denoising at one level, from the Gaussian fitted to the noisy data."""
QUIET = "logger=none threads=1 checkpoint_every=100000 output_dir=outputs/anomalies"
TEMPLATE = Path(__file__).resolve().parents[1] / "docs" / "studies" / "anomalies.md.j2"
DRAWS = 16
"""Noise vectors per row that the residual is averaged over."""


class Table(NamedTuple):
    """The classes of a data set, each the anomaly in turn; sigma: the noise level of the model, in units of the data's
    scale; more: further settings."""

    classes: tuple[str | int, ...]
    sigma: float
    more: str


SMALL = "energy.hidden=[128,128] early_stopping=on steps=300 batch_size=128 eval_every=50"
LARGE = "energy.hidden=[256,256,256] early_stopping=off steps=2000 batch_size=256 eval_every=1000"
SETS = {
    "wine_cultivars": Table(("class_0", "class_1", "class_2"), 0.5, SMALL),
    "breast_cancer": Table(("malignant", "benign"), 0.5, SMALL),
    "digits": Table(tuple(range(10)), 1.0, LARGE),
}


OWN = ("energy", "gradient norm", "residual")
COLUMNS = {
    "wine": ("wine_cultivars", SETS["wine_cultivars"].classes),
    "cancer, malignant": ("breast_cancer", ("malignant",)),
    "cancer, benign": ("breast_cancer", ("benign",)),
    "digits": ("digits", SETS["digits"].classes),
}
"""The columns of the page's table: a data set, and the classes over which it averages."""


def anomalies(*, out: str = "docs", only: str = ",".join(SETS), seeds: list[NonNegativeInt] | None = None) -> None:
    """Train the runs that are missing in <out>/anomalies.json, add them to it, and write <out>/anomalies.md.

    only: data sets, separated by commas; seeds: 0 to 4 by default.
    """
    file = Path(out) / "anomalies.json"
    done = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for name in only.split(","):
        if name not in SETS:
            raise one_of("only", name, SETS)
    for seed in range(5) if seeds is None else seeds:
        for name in only.split(","):
            for anomaly in SETS[name].classes:
                key = {"dataset": name, "anomaly": anomaly, "seed": seed}
                if any(key.items() <= row.items() for row in done):
                    continue
                found = {k: round(v, 4) for k, v in aurocs(name, anomaly, seed).items()}
                done.append({**key, **found})
                done.sort(
                    key=lambda r: (
                        list(SETS).index(r["dataset"]),
                        SETS[r["dataset"]].classes.index(r["anomaly"]),
                        r["seed"],
                    )
                )
                write_atomic(file, "[\n" + ",\n".join(map(json.dumps, done)) + "\n]\n")
                print(name, anomaly, seed, found, flush=True)
    write_atomic(Path(out) / "anomalies.md", page(done))


def page(done: list[dict[str, Any]]) -> str:
    """Write the page from the runs: a table of means over classes and seeds, and a line for each column."""
    from jinja2 import Environment, StrictUndefined

    methods = [k for k in done[0] if k not in ("dataset", "anomaly", "seed")]
    values = {}
    for column, (name, classes) in COLUMNS.items():
        there = tuple(c for c in classes if any(r["dataset"] == name and r["anomaly"] == c for r in done))
        if there:
            part = f", {len(there)} of {len(classes)} classes" if len(there) < len(classes) else ""
            values[column + part] = {m: by_seed(done, name, there, m) for m in methods}
    lines = ["| AUROC | " + " | ".join(values) + " |", "|" + "---|" * (len(values) + 1)]
    for m in methods:
        mine = f"**{m}**" if m in OWN else m
        lines.append("| " + " | ".join([mine, *(shown(v[m]) for v in values.values())]) + " |")
    lines.append("| seeds | " + " | ".join(str(len(v[methods[0]])) for v in values.values()) + " |")
    told = [verdict(c, v) for c, v in values.items()]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(table="\n".join(lines), verdicts="\n".join(told))


def by_seed(done: list[dict[str, Any]], name: str, classes: tuple[str | int, ...], method: str) -> np.ndarray:
    """Return the mean over the classes for each seed that has all of them, (seeds,)."""
    rows = {(r["anomaly"], r["seed"]): r[method] for r in done if r["dataset"] == name}
    whole = [s for s in sorted({s for _, s in rows}) if all((c, s) in rows for c in classes)]
    return np.array([np.mean([rows[c, s] for c in classes]) for s in whole])


def error(x: np.ndarray) -> float:
    """Return the standard error of the mean over seeds, nan for one seed."""
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def shown(x: np.ndarray) -> str:
    return f"{x.mean():.3f}" + (f" ± {error(x):.3f}" if len(x) > 1 else "")


def verdict(column: str, values: dict[str, np.ndarray]) -> str:
    """Compare the energy with the best of the other detectors, by the paired difference over seeds."""
    best = max((m for m in values if m not in OWN), key=lambda m: float(values[m].mean()))
    d = values["energy"] - values[best]
    se = error(d)
    if math.isnan(se):
        return f"- {column}: the energy less the best of the others, {best}: {d.mean():+.3f}, by one seed."
    is_level = abs(d.mean()) <= 2 * se
    says = "level with" if is_level else "above" if d.mean() > 0 else "below"
    return f"- {column}: the energy is {says} the best of the others, {best}: difference {d.mean():+.3f} ± {se:.3f}."


def model_scores(run: Result, x: Tensor, sigma: float) -> dict[str, Tensor]:
    """Compute the scores of the model at x (n, *shape), (n,) each; higher is more anomalous. sigma: of the
    residual's noise, in the coordinates of x."""
    with torch.no_grad():
        scores = {"energy": evaluate(run.energy, x)}
    scores["gradient norm"] = flat_sum(data_score(run.energy, x).detach() ** 2).sqrt()
    noise = torch.Generator().manual_seed(0)
    total = torch.zeros(len(x))
    for _ in range(DRAWS):  # the same noise for all rows
        z = torch.empty(1, *x.shape[1:]).normal_(generator=noise).expand_as(x)
        total += residual(data_score(run.energy, x + sigma * z).detach(), z, sigma) / DRAWS
    return {**scores, "residual": total}


def detectors(seed: int, sigma: float) -> dict[str, Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]]:
    """Return the detectors by name: each is fitted to rows (n, d) and returns a score, higher for anomalies."""
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import KernelDensity
    from sklearn.svm import OneClassSVM

    def kernel(z: np.ndarray, width: float):
        model = KernelDensity(bandwidth=width).fit(z)
        return lambda x: -model.score_samples(x)

    def blurred(z: np.ndarray):
        """The Gaussian of the rows with noise of sigma: the model before training."""
        mean = z.mean(0)
        inverse = np.linalg.inv(np.cov(z.T) + sigma**2 * np.eye(z.shape[1]))
        return lambda x: np.einsum("ni,ij,nj->n", x - mean, inverse, x - mean)

    def negative(model):
        return lambda x: -model.score_samples(x)

    return {
        "isolation forest": lambda z: negative(IsolationForest(random_state=seed).fit(z)),
        "one-class SVM": lambda z: negative(OneClassSVM().fit(z)),
        "Mahalanobis": lambda z: EmpiricalCovariance().fit(z).mahalanobis,
        "Gaussian, blurred": blurred,
        "kernel density, 1": lambda z: kernel(z, 1.0),
        "kernel density, fitted": lambda z: kernel(z, bandwidth(torch.from_numpy(z), 1.0)),
    }


def rows_outside(data: Dataset, values: dict[str, Any], anomaly: Any) -> Tensor:
    """Return all rows of the class left out: the data set's own, for images of every split."""
    if data.bounds is None:
        assert data.outside is not None, "a class is left out"
        return data.outside
    whole: Dataset = build("dataset", {**values, "classes": None})
    assert whole.labels is not None, "it has classes"
    return torch.cat([getattr(whole, s)[y == anomaly] for s, y in whole.labels.items()])


@cache
def settings(name: str) -> dict[str, Any]:
    """Compose the config of the runs on one data set, but for its class, sigma and seed."""
    return compose_config([f"dataset={name}", *TRAIN.split(), *SETS[name].more.split(), *QUIET.split()])


def aurocs(name: str, anomaly: str | int, seed: int) -> dict[str, float]:
    """Train one model and fit the detectors; return the AUROC of each score."""
    base = settings(name)
    kept = [c for c in SETS[name].classes if c != anomaly]
    values = {**base["dataset"], "classes": kept, "seed": seed}
    data: Dataset = build("dataset", values)
    sigma = SETS[name].sigma
    energy = {**base["energy"], "confine_floor": sigma**2}
    objective = {**base["objective"], "sigma": sigma * data.scale}
    run = train({**base, "seed": seed, "dataset": values, "energy": energy, "objective": objective}, quiet=True)
    normal, outside = data.test, rows_outside(data, values, anomaly)
    inside, other = (model_scores(run, x, sigma * data.scale) for x in (normal, outside))
    found = {k: detection(-inside[k], -other[k])[0] for k in inside}

    def z(x: Tensor) -> np.ndarray:
        return ((x - data.mean) / data.scale).flatten(1).double().numpy()

    seen = z(torch.cat([data.train, data.val]))
    for key, fit in detectors(seed, sigma).items():
        score = fit(seen)
        found[key] = detection(*(-torch.from_numpy(score(z(x))) for x in (normal, outside)))[0]
    return found


if __name__ == "__main__":
    main(anomalies)
