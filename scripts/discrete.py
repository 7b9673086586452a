"""Train energies of bits, and write docs/discrete.md.

    python scripts/discrete.py out=docs [only=flipped,ising] [seeds=[0,1]] [root=data]

Every law here is known exactly, or the model's Z is summed exactly, but for RBMs of many hidden units, whose Z comes
from annealed importance sampling. `root` is where torchvision's MNIST lies, for the study `mnist`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from discrete_speed import mixing, throughput
from pydantic import NonNegativeInt
from tables_of_runs import Bar, Row, Studies, Study

from ebm_lab.cli.tools import main
from ebm_lab.core.errors import one_of
from ebm_lab.core.files import write_atomic
from ebm_lab.runs.train import Result

QUIET = "logger=none threads=1 checkpoint_every=100000 eval_every=100000 output_dir=outputs/discrete"
TEMPLATE = Path(__file__).resolve().parents[1] / "docs" / "studies" / "discrete.md.j2"
PICTURES = {
    ("digits", "rbm, pcd", "samples"): "discrete_digits.png",
    ("digits", "rbm, pcd", "chains"): "discrete_chains.png",
    ("digits", "rbm, pcd", "filters"): "discrete_filters.png",
    ("ising", "pseudo_likelihood, l1", "couplings"): "discrete_couplings.png",
}
"""By study, row and name in the run, the pictures of the page; all of the last group and of seed 0."""

FLIPPED = ("pseudo_likelihood", "ratio_matching", "mpf", "score_entropy", "ed", "cd", "pcd")
GAP = {"kl_forward": 4, "train_cpu_seconds": 0}
ISING = {"ising_neg_log_rmse": 2, "cpu_seconds": 0}
MANY_CHAINS = "samples=1000 evaluation.ais.chains=1000 evaluation.ais.temperatures=1000"
LARGE = "max_seconds=240 samples=200 evaluation.ais.chains=200 evaluation.ais.temperatures=1000"
MNIST = {"ais_nll": 2, "ais_log_z_se": 2, "ais_distance": 2, "ais_gap": 2, "train_cpu_seconds": 0}
STUDIES = {
    "flipped": Study(
        {"bars and stripes": "dataset=bars_and_stripes dataset.flip=0.05 dataset.train=200000"},
        {o: f"objective={o}" for o in FLIPPED},
        GAP,
        "likelihood",
    ),
    "noise_free": Study(
        {"bars and stripes": "dataset=bars_and_stripes dataset.flip=0"},
        {
            "nce": "objective=nce",
            "ed": "objective=ed objective.flip=0.2",
            "rbm, pcd": "objective=pcd energy=rbm energy.hidden=32 sampler=block_gibbs",
            "pseudo_likelihood": "objective=pseudo_likelihood",
        },
        {"kl_forward": 3, "support_mass": 3, "train_cpu_seconds": 0},
        "likelihood",
    ),
    "random": Study(
        {"12 bits": "dataset=random_bits"},
        {o: f"objective={o}" for o in ("pseudo_likelihood", "score_entropy", "pcd", "cd")},
        GAP,
        "likelihood",
    ),
    "ising": Study(
        {f"sigma = {s}": f"dataset=ising dataset.sigma={s} energy=ising" for s in ("0.1", "0.2")},
        {
            "pseudo_likelihood, l1": "objective=pseudo_likelihood",
            "pseudo_likelihood, refitted": "objective=pseudo_likelihood energy.support=0.03",
            "pcd, l1": "objective=pcd sampler=gwg",
            "pcd, refitted": "objective=pcd sampler=gwg energy.support=0.03",
        },
        ISING,
        "ising_rmse",
    ),
    "digits": Study(
        {"binary_digits": "dataset=binary_digits"},
        {
            "rbm, pcd": "objective=pcd",
            "conv, pcd": "objective=pcd energy=conv sampler=gwg steps=1500 batch_size=64",
            "rbm, cd": "objective=cd",
        },
        {"confident_share": 3, "confident_share_real": 3, "classes_found": 0, "train_cpu_seconds": 0},
        "samples,classifier,filters",
    ),
    "mnist": Study(
        {"binary_mnist": "dataset=binary_mnist"},
        {
            "rbm of 20, pcd": f"objective=pcd energy.hidden=20 steps=4000 {MANY_CHAINS}",
            "rbm of 500, cd 1": f"objective=cd sampler.steps=1 {LARGE}",
            "rbm of 500, cd 25": f"objective=cd sampler.steps=25 {LARGE}",
            "rbm of 500, pcd": f"objective=pcd {LARGE}",
        },
        MNIST,
        "likelihood,ais",
    ),
}
HEADS = {
    **{"kl_forward": "KL(truth \\|\\| model), nats", "support_mass": "mass on the patterns", "log_z": "log Z, summed"},
    **{"ising_neg_log_rmse": "-log RMSE of J", "train_cpu_seconds": "CPU-s", "cpu_seconds": "CPU-s in all"},
    **{"confident_share": "confident", "confident_share_real": "of real digits", "classes_found": "classes"},
    **{
        "ais_nll": "test nll by AIS, nats",
        "ais_log_z_se": "s.e. of log Z",
        "ais_distance": "\\|log Z by AIS - summed\\|",
        "ais_gap": "reverse - forward",
    },
}
BARS = [
    *(Bar("flipped", "bars and stripes", o, "kl_forward", False, 0.05) for o in FLIPPED),
    *(Bar("noise_free", "bars and stripes", o, "kl_forward", False, 0.05) for o in ("nce", "ed")),
    Bar("noise_free", "bars and stripes", "rbm, pcd", "kl_forward", False, 0.15),
    *(Bar("random", "12 bits", o, "kl_forward", False, 0.05) for o in ("pseudo_likelihood", "score_entropy")),
    *(Bar("random", "12 bits", o, "kl_forward", False, 0.10) for o in ("cd", "pcd")),
    *(
        Bar("ising", f"sigma = {sigma}", row, "ising_neg_log_rmse", True, bound)
        for sigma, bounds in (("0.1", (5.2, 5.9, 5.1)), ("0.2", (4.75, 5.4, 4.4)))
        for row, bound in zip(("pseudo_likelihood, l1", "pseudo_likelihood, refitted", "pcd, l1"), bounds, strict=True)
    ),
    Bar("mnist", "binary_mnist", "rbm of 20, pcd", "ais_distance", False, 0.1),
]
PLACE = {"out": Path("docs")}
"""Where pictures go."""


def seen(run: Result, place: Row) -> dict[str, float]:
    """Copy the pictures of the page from their run, and compare log Z by AIS with the exact one."""
    if place["seed"] == 0:
        for (study, row, name), file in PICTURES.items():
            found = sorted((run.path / "images").glob(f"{name}_*.png"))
            if (study, row) == (place["study"], place["row"]) and found:
                shutil.copyfile(found[-1], PLACE["out"] / file)
    exact = run.summary.get("log_z")
    return {"ais_distance": abs(run.summary["ais_log_z"] - exact)} if place["study"] == "mnist" and exact else {}


LAB = Studies(STUDIES, BARS, HEADS, QUIET, seen)
MEASURED = {"speed": throughput, "mixing": mixing}


def discrete(
    *,
    out: str = "docs",
    only: str = ",".join([*STUDIES, *MEASURED]),
    seeds: list[NonNegativeInt] | None = None,
    root: str = "data",
) -> None:
    """Train the runs that are missing in <out>/discrete.json, add them to it, and write <out>/discrete.md.

    only: studies, or the measurements speed and mixing, separated by commas; seeds: 0 to 2 by default.
    """
    PLACE["out"] = Path(out)
    asked = only.split(",")
    for name in asked:
        if name not in {**STUDIES, **MEASURED}:
            raise one_of("only", name, {**STUDIES, **MEASURED})
    group = STUDIES["mnist"].groups
    group["binary_mnist"] = f"dataset=binary_mnist dataset.root={root}"
    trained = ",".join(name for name in asked if name in STUDIES)
    file, speeds = Path(out) / "discrete.json", Path(out) / "discrete_speed.json"
    done = LAB.complete(file, trained, seeds or range(3))
    measured: dict[str, Any] = json.loads(speeds.read_text(encoding="utf-8")) if speeds.is_file() else {}
    for name in asked:
        if name in MEASURED and name not in measured:
            measured[name] = MEASURED[name]()
            write_atomic(speeds, json.dumps(measured, indent=1) + "\n")
    write_atomic(Path(out) / "discrete.md", LAB.render(TEMPLATE, done, measured=measured))


if __name__ == "__main__":
    main(discrete)
