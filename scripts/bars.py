"""Train objectives on data sets over seeds, in parallel processes of one thread, and print the table of held-out gaps.

    python scripts/bars.py objectives=dsm,ssm datasets=two_moons seeds=0,1,2 jobs=2 [out=outputs/bars]

Each run is `python train.py objective=O dataset=D seed=S logger=none threads=1` with the defaults of every YAML. The
table gives nll_gap in nats (held-out test points; 0 is the true density) and CPU-seconds, start-up and evaluation
included.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ebm_lab.cli.tools import main

ROOT = Path(__file__).resolve().parent.parent


def bars(
    *,
    objectives: str = "mle,cd,pcd,dsm,multi_dsm,ssm,nce",
    datasets: str = "two_moons,eight_gaussians",
    seeds: str = "0,1,2",
    jobs: int = 2,
    out: str = "outputs/bars",
) -> None:
    """Held-out gaps of objectives on data sets over seeds; see the top of this file."""
    cases = [
        (o, d, s) for d in str(datasets).split(",") for o in str(objectives).split(",") for s in str(seeds).split(",")
    ]
    with ThreadPoolExecutor(jobs) as pool:
        results = dict(zip(cases, pool.map(lambda case: run(case, Path(out)), cases), strict=True))
    print(f"| {'data set':<18} | objective | nll_gap per seed (nats) | worst | CPU-seconds (worst) | diverged |")
    print("|---|---|---|---|---|---|")
    for d in str(datasets).split(","):
        for o in str(objectives).split(","):
            print(row(d, o, [results[o, d, s] for s in str(seeds).split(",")]))


def run(case: tuple[str, str, str], out: Path) -> dict:
    """One run (objective, data set, seed) in a process of its own; its summary."""
    objective, dataset, seed = case
    overrides = [f"objective={objective}", f"dataset={dataset}", f"seed={seed}", "logger=none", "threads=1"]
    command = [sys.executable, str(ROOT / "train.py"), *overrides, f"output_dir={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.strip().splitlines()
    file = ROOT / lines[-1] / "summary.json" if lines else None
    if file is None or not file.is_file():
        print(f"{objective} {dataset} seed {seed}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return {"status": "failed"}
    summary = json.loads(file.read_text())
    gap = summary.get("nll_gap", float("nan"))
    print(f"{objective} {dataset} seed {seed}: {summary['status']} gap {gap:.4f}", file=sys.stderr)
    return summary


def row(dataset: str, objective: str, summaries: list[dict]) -> str:
    gaps = [s.get("nll_gap", float("nan")) for s in summaries]
    cpu = max(s.get("cpu_seconds", float("nan")) for s in summaries)
    bad = sum(s["status"] != "finished" or s.get("rollbacks", 0) > 0 for s in summaries)
    return f"| {dataset} | {objective} | {' '.join(f'{g:.4f}' for g in gaps)} | {max(gaps):.4f} | {cpu:.0f} | {bad} |"


if __name__ == "__main__":
    main(bars)
