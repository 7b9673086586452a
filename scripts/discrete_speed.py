"""What scripts/discrete.py measures beside its runs: speed against another library, and how samplers mix.

`throughput` races one unit of work of this lab against ebmkit's, by their documented interfaces, on equal models and
batches; the ratio is the median over rounds of CPU seconds, ours over theirs. Without ebmkit there are no rows.

`mixing` runs chains of each sampler on Ising lattices at three temperatures, and counts changed bits and independent
draws of the magnetisation and of the energy per CPU second (ebm_lab/statistics/diagnostics.py).
"""

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.interfaces import Batch, Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.registry import build
from ebm_lab.statistics.diagnostics import effective_sample_size

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # makes `scripts` importable
from scripts.benchmark.peers import quietly_import, versions
from scripts.benchmark.timing import Timed, race, timed

BITS, HIDDEN, BATCH = 784, 500, 64
ROUNDS = 31
SAMPLERS: dict[str, dict[str, Any]] = {
    "gibbs": {"scan": "sweep"},
    "gwg": {},
    "dmala": {"step_size": 0.4},
    "locally_balanced": {"balance": "sqrt"},
    "block_gibbs": {},
}
SIGMAS = (0.1, 0.2, 0.25)
CHAINS, CALLS = 50, 400


class Bits(Dataset):
    """Independent random bits (n, d), all splits alike."""

    space = "binary"

    def __init__(self, n: int, d: int) -> None:
        self.train = self.val = self.test = (torch.rand(n, d, generator=stream(0, "bits")) < 0.3).float()


def throughput() -> dict[str, Any]:
    """Race this lab against ebmkit: a block Gibbs sweep and a step of the pseudo-likelihood of an RBM, and a proposal
    of gwg."""
    torch.set_num_threads(1)
    if "ebmkit" not in versions():
        return {"rows": [], "version": None}
    rows = []
    for name, size, pair in (("block Gibbs sweep", f"{BITS} x {HIDDEN}", sweeps), *PAIRS):
        ours, theirs = pair()
        contestants: dict[str, Timed] = {"ours": work(ours), "theirs": work(theirs)}
        found = race(contestants, "theirs", ROUNDS).ratio("ours", "cpu")
        rows.append({"work": name, "size": size, "ratio": found.middle, "low": found.low, "high": found.high})
        print(rows[-1], flush=True)
    return {"rows": rows, "version": versions()["ebmkit"]}


def work(unit: Callable[[], object]) -> Timed:
    """Return a function that times so many units."""
    return lambda repeats: timed(unit, repeats)


def rbms(d: int, hidden: int) -> tuple[Any, Any, Bits]:
    """Return an RBM of each library with equal parameters, and data."""
    data = Bits(BATCH, d)
    ours = build("energy", {"name": "rbm", "hidden": hidden, "weight_std": 0.05}, dataset=data)
    theirs = importlib.import_module("ebm.nets").RBM(d, hidden)
    with torch.no_grad():
        for mine, other in ((ours.w, theirs.W), (ours.b, theirs.b), (ours.c, theirs.c)):
            other.copy_(mine)
    torch.testing.assert_close(ours(data.train), theirs(data.train))
    return ours, theirs, data


def sweeps() -> tuple[Callable[[], object], Callable[[], object]]:
    """A call of ten sweeps."""
    ours, theirs, data = rbms(BITS, HIDDEN)
    mine = build("sampler", {"name": "block_gibbs", "steps": 10})
    other, generator = quietly_import("ebm.samplers").GibbsSampler(steps=10), stream(0, "sweeps")
    return lambda: mine(ours, data.train, {}, generator=generator), lambda: other.sample(theirs, data.train)


def pseudo_likelihoods(d: int, hidden: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The loss and its gradient on a batch."""
    ours, theirs, data = rbms(d, hidden)
    settings = {"name": "pseudo_likelihood", "sites": None}
    mine = build("objective", settings, dataset=data, energy=ours, generator=stream(0, "loss"))
    other, batch = quietly_import("ebm.losses").PseudoLikelihood(), Batch(data.train)
    scaled = float(mine(batch).value.detach()) / d
    torch.testing.assert_close(float(other(theirs, data.train).loss.detach()), scaled, rtol=1e-4, atol=0)
    return lambda: mine(batch).value.backward(), lambda: other(theirs, data.train).loss.backward()


def gwgs() -> tuple[Callable[[], object], Callable[[], object]]:
    """A call of twenty proposals."""
    ours, theirs, data = rbms(BITS, HIDDEN)
    mine = build("sampler", {"name": "gwg", "steps": 20}, dataset=data)
    other, generator = quietly_import("ebm.samplers").GibbsWithGradients(steps=20), stream(0, "gwg")
    return lambda: mine(ours, data.train, {}, generator=generator), lambda: other.sample(theirs, data.train)


PAIRS = (
    ("pseudo-likelihood, gradient", "64 x 64", lambda: pseudo_likelihoods(64, 64)),
    ("pseudo-likelihood, gradient", f"{BITS} x 64", lambda: pseudo_likelihoods(BITS, 64)),
    ("Gibbs with gradients, proposal", f"{BITS} x {HIDDEN}", gwgs),
)


def mixing() -> list[dict[str, Any]]:
    """Run each sampler on 10 x 10 tori; return a row for each."""
    torch.set_num_threads(1)
    rows = []
    for sigma in SIGMAS:
        values = {"sigma": sigma, "field": 0.0, "boundary": "torus", "couplings": None, "seed": 0}
        data = build("dataset", {"name": "ising", "size": [10, 10], "train": CHAINS, "held_out": 2, **values})
        energy = build("energy", {"name": "ising", "l1": 0.0, "support": None}, dataset=data)
        with torch.no_grad():
            energy.couplings.copy_(data.couplings)
        for name, settings in SAMPLERS.items():
            rows.append({"sigma": sigma, "sampler": name, **run(name, settings, energy, data)})
            print(rows[-1], flush=True)
    return rows


def run(name: str, settings: dict[str, Any], energy: Any, data: Any) -> dict[str, float]:
    """Run CHAINS chains from exact samples; return changed bits and independent draws per CPU second."""
    steps = {"gibbs": 100, "block_gibbs": 1, "dmala": 5}.get(name, 20)
    sampler = build("sampler", {"name": name, "steps": steps, **settings}, dataset=data)
    generator, x = stream(0, f"mixing/{name}"), data.train
    state, kept, flips, seconds = sampler.begin(energy, x, generator), [], 0.0, 0.0
    for _ in range(CALLS):
        began = time.process_time()
        after, state, _, _ = sampler(energy, x, state, generator=generator)
        seconds += time.process_time() - began
        flips += float((after - x).abs().sum())
        x = after
        kept.append(torch.stack([(2 * x - 1).flatten(1).mean(1).abs(), energy(x).detach()]))
    traces: Tensor = torch.stack(kept, -1).double()  # (2, chains, calls)
    magnetisation, of_energy = effective_sample_size(traces).tolist()
    return {"flips": flips / seconds, "ess_magnetisation": magnetisation / seconds, "ess_energy": of_energy / seconds}
