"""Held-out gap at equal CPU time: each library at its defaults, and the lab with the same CPU-seconds.

    gap = mean over the test split of log p(x) - (-E(x) - log Z),    nats per point; 0 is perfect

log p is the data's own density, log Z by quadrature. A peer trains its 2-128-128-1 SiLU network for 2,000 steps of
batch 256 with Adam at 1e-3 on the same 20,000 fixed points, its losses at their documented defaults (sigma 0.1; k = 10
Langevin steps of size 0.01; ebmkit's buffer of 8,192). The better peer's CPU time (of two alike, the quicker one's) is
the lab's budget, then half of it: the lab's recipe for the objective, with as many steps as that buys, found by timing
its first steps. Only training counts; the time before it (data, and noise levels chosen from them) is in `before`.

A network without a confining term may have no Z; it is reported if a larger box still changes log Z. One seed each says
little: between seeds the gaps of the peers differ by up to 0.3 nats for dsm and 0.5 for pcd.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import Diverged
from ebm_lab.core.functional import in_parts
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.quadrature import box_log_z
from ebm_lab.training.memory import keep_freed_memory
from scripts.benchmark import ours, peers
from scripts.benchmark.forked import alone
from scripts.benchmark.peers import Job

DATASETS = ("two_moons", "eight_gaussians")
OBJECTIVES = ("dsm", "ssm", "sm", "nce", "cd", "pcd")
STEPS, BATCH, STEP_SIZE = 2000, 256, 0.01
COUNTS: Mapping[str, dict[str, Any]] = {
    "torchebm": {"sigma": 0.1, "projections": 5, "buffer_size": 10_000, "init_steps": 100},
    "ebmkit": {"sigma": 0.1, "projections": 1, "buffer_size": 8192, "noise_ratio": 1},
}
"""The peers' defaults, by the names of our settings."""
MARGIN = 0.95
"""Share of the budget for which the steps are chosen; a run that still takes longer is repeated with fewer."""
PILOT = 60
"""Steps of the pilot that measures the cost of a step; the first third warms up."""


class Bare(nn.Module):
    """A 2-128-128-1 SiLU network without a confining term."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((2, 128), (128, 128))
        self.net = nn.Sequential(*(m for i, o in widths for m in (nn.Linear(i, o), nn.SiLU())), nn.Linear(128, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)


@torch.no_grad()
def gap(energy: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Compute the held-out gap, and the change of log Z with a larger box."""
    log_z, change = box_log_z(energy, dataset.train, 300)
    true, x = dataset.log_prob(dataset.test), dataset.test
    assert true is not None
    e = in_parts(energy, x, 4096).double()
    return {"gap": float(true.double().mean() + e.mean()) + log_z, "log_z_change": change}


def gaps(compose: ours.Compose, seeds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the gaps of every data set, objective and seed."""
    records, others = [], list(peers.versions())
    for name in DATASETS:
        dataset = ours.build(compose, [f"dataset={name}", "objective=sm"], 1).evaluations.dataset
        for objective in OBJECTIVES:
            for seed in range(seeds):
                tried = {peer: alone(partial(theirs, peer, objective, dataset, seed)) for peer in others}
                found = {peer: result for peer, result in tried.items() if result is not None}
                if not found:
                    continue
                best = better(found)
                budget = found[best]["cpu"]
                mine = {
                    share: alone(partial(lab, compose, name, objective, seed, part * budget))
                    for share, part in (("equal", 1.0), ("half", 0.5))
                }
                records.append(
                    {"dataset": name, "objective": objective, "seed": seed, "best": best, "peers": found, "ours": mine}
                )
                say(_line(records[-1]))
    return records


def better(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the peer with the smallest gap; of two within 5 % of each other, the faster one."""
    gaps = {peer: r["gap"] if math.isfinite(r["gap"]) else math.inf for peer, r in found.items()}
    least = min(gaps.values())
    near = [peer for peer, value in gaps.items() if value <= least + 0.05 * abs(least)]
    return min(near, key=lambda peer: found[peer]["cpu"])


def theirs(peer: str, objective: str, dataset: Dataset, seed: int) -> dict[str, Any] | None:
    """Train a peer at its defaults; None if it has no such loss."""
    peers.quietly_import(peers.PEERS[peer])  # the import does not count as training
    torch.manual_seed(seed)
    net = Bare()
    eps = math.sqrt(2 * STEP_SIZE)
    job = Job(objective, net, dataset.train, BATCH, COUNTS[peer], 10, eps, lambda n: torch.randn(n, 2))
    began = time.process_time()
    loop = peers.step(peer, job, lr=1e-3, clip=None, decay=0.0)
    if isinstance(loop, str):
        return None
    for _ in range(STEPS):
        loop()
    cpu = time.process_time() - began
    return {"cpu": cpu, **gap(net, dataset)}


def lab(compose: ours.Compose, name: str, objective: str, seed: int, budget: float) -> dict[str, Any]:
    """Train the lab's recipe for as many steps as `budget` CPU-seconds allow; report a divergence."""
    keep_freed_memory()
    choice = [f"objective={objective}", f"dataset={name}", f"seed={seed}", "logger=none", "evaluation=[]"]
    choice += ["device=cpu", "threads=1", "compile=off"]
    steps = max(10, int(MARGIN * budget / step_cost(compose, choice)))
    result = fitted(compose, choice, steps)
    if result["cpu"] > budget:  # the pilot's steps were faster
        result = fitted(compose, choice, max(10, int(MARGIN * steps * budget / result["cpu"])))
    return result


def fitted(compose: ours.Compose, choice: list[str], steps: int) -> dict[str, Any]:
    """Train the recipe for that many steps; return its gap and its cost."""
    warmup = min(compose(choice)["optim"]["warmup"], steps // 10)
    began = time.process_time()
    trainer = ours.assembled(compose, [*choice, f"steps={steps}", f"optim.warmup={warmup}", f"eval_every={steps}"])
    trainer.say = lambda line: None
    result: dict[str, Any] = {"steps": steps, "before": time.process_time() - began}
    began = time.process_time()
    try:
        trainer.fit()
    except Diverged as problem:
        return {**result, "cpu": time.process_time() - began, "gap": math.inf, "said": str(problem)}
    result["cpu"] = time.process_time() - began
    with trainer.state.ema.applied():
        return {**result, **gap(trainer.state.objective.energy.eval(), trainer.evaluations.dataset)}


def step_cost(compose: ours.Compose, choice: list[str]) -> float:
    """Measure the CPU-seconds of a step in a pilot run."""
    trainer = ours.assembled(compose, [*choice, f"steps={10 * PILOT}"])
    work = ours.stepping(trainer)
    for _ in range(PILOT // 3):
        work()
    began = time.process_time()
    for _ in range(PILOT - PILOT // 3):
        work()
    return (time.process_time() - began) / (PILOT - PILOT // 3)


def _line(record: dict[str, Any]) -> str:
    told = [f"{peer} {r['gap']:.3f} in {r['cpu']:.1f} s" for peer, r in record["peers"].items()]
    told += [f"ours {r['gap']:.3f} in {r['cpu']:.1f} s" for r in record["ours"].values()]
    return f"gap, {record['objective']}, {record['dataset']}: {'  '.join(told)}"
