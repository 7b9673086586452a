"""Train classifiers that are energy-based models, and write docs/labels.md.

    python scripts/labels.py out=docs [only=mixture,digits] [seeds=[0,1]] [root=data]

One objective, jem, with several generative halves: on mixtures whose p(x) and p(y | x) are known, on digits with all
labels and with ten of each class, on clothes (torchvision's Fashion-MNIST and MNIST lie in `root`), and on tables.
Classifiers of scikit-learn stand beside it, on the same splits. The seed of a run is also that of its data: each seed
splits real data anew.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import labels_baselines as baselines
from pydantic import NonNegativeInt
from tables_of_runs import Bar, Row, Studies, Study

from ebm_lab.cli.tools import main
from ebm_lab.core.files import write_atomic
from ebm_lab.runs.train import Result

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


def beside(classifiers: Callable[..., dict[str, dict[str, float]]]) -> Callable[..., dict[str, dict[str, float]]]:
    """Fit classifiers to the data of a run."""
    return lambda run, seed: classifiers(run.dataset, baselines.known(run.dataset), seed)


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
        beside(baselines.of_digits),
    ),
    "few": Study(
        {"digits": "dataset=digits dataset.labels_per_class=10"},
        {"cross-entropy alone": ALONE, "dsm": HALVES["dsm"], "pcd": HALVES["pcd"] + " objective.weight=0.3"},
        {"accuracy": 3, "ece": 3, "train_cpu_seconds": 0},
        "calibration",
        beside(baselines.of_few),
    ),
    "tables": Study(
        {name: f"dataset={name} {TABLE}" for name in ("wine_cultivars", "breast_cancer")},
        {"dsm": HALVES["dsm"] + BLURRED, "nce": HALVES["nce"] + " energy.base=gaussian"},
        {"accuracy": 3, "ece": 3, "train_cpu_seconds": 0},
        "calibration",
        beside(baselines.of_table),
    ),
    "ood": Study(
        {"digits": "dataset=digits dataset.classes=[0,1,2,3,4,5,6,7]"},
        {"cross-entropy alone": ALONE, "dsm": HALVES["dsm"], "pcd": HALVES["pcd"]},
        {f"ood_auroc_{score}_outside": 3 for score in SCORES},
        "ood",
    ),
    "clothes": Study(
        {"fashion_mnist": "dataset=fashion_mnist"},
        {"cross-entropy alone": ALONE, "dsm": HALVES["dsm"]},
        {**{f"ood_auroc_{score}_mnist": 3 for score in SCORES}, "accuracy": 3, "train_cpu_seconds": 0},
        "ood,calibration",
    ),
}
HEADS = {
    **{"nll_gap": "gap in log p(x), nats", "label_kl": "KL of p(y \\| x), nats", "train_cpu_seconds": "CPU-s"},
    **{f"ood_auroc_{score}_{other}": score.replace("_", " ") for score in SCORES for other in ("outside", "mnist")},
    **{"ece": "ECE", "ece_scaled": "ECE, scaled", "confident_share": "confident", "accuracy": "accuracy"},
    **{"smallest_class_share": "rarest class", "asked_class_share": "asked class"},
}


MODELS = ("pcd, weight 0.1", "dsm")
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
    Bar("clothes", "fashion_mnist", "dsm", "ood_auroc_energy_mnist", True, 0.905),
    Bar("few", "digits", "pcd", "accuracy", True, 0.04, "cross-entropy alone"),
    Bar("few", "digits", "dsm", "accuracy", True, 0.06, "cross-entropy alone"),
]


def seen(run: Result, place: Row) -> dict[str, float]:
    """Copy the pictures of the page from their run, and measure the rarest class of digits."""
    if (place["study"], place["row"], place["seed"]) == PICTURED:
        for picture, file in PICTURES.items():
            shutil.copyfile(next((run.path / "images").glob(f"{picture}_*.png")), PLACE["out"] / file)
    return {"smallest_class_share": baselines.smallest_share(run)} if place["study"] == "digits" else {}


PLACE = {"out": Path("docs")}
"""Where pictures go."""
LAB = Studies(STUDIES, BARS, HEADS, QUIET, seen)


def labels(
    *,
    out: str = "docs",
    only: str = ",".join(STUDIES),
    seeds: list[NonNegativeInt] | None = None,
    root: str = "data",
) -> None:
    """Train the runs that are missing in <out>/labels.json, add them to it, and write <out>/labels.md.

    only: studies, separated by commas; seeds: 0 to 2 by default; root: where torchvision's data sets lie, for clothes.
    """
    PLACE["out"] = Path(out)
    STUDIES["clothes"].groups["fashion_mnist"] = f"dataset=fashion_mnist dataset.root={root} max_seconds=1800"
    done = LAB.complete(Path(out) / "labels.json", only, seeds or range(3))
    pictured = f"{PICTURED[1]}, seed {PICTURED[2]}"
    text = LAB.render(TEMPLATE, done, pictured=pictured, test_digits=270, table_steps=500)
    write_atomic(Path(out) / "labels.md", text)


if __name__ == "__main__":
    main(labels)
