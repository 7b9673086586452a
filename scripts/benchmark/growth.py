"""Growth of cost with the dimension, the number of chains, the steps k of a chain, and the projections of SSM.

    slope = d log(seconds) / d log(n),    by least squares over the upper half of the range

1 is linear. At the lower end the fixed cost of a call hides the work, and the slope there is near 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ebm_lab.distributions.start import start_law
from ebm_lab.training.memory import keep_freed_memory
from scripts.benchmark import ours, peers, plain
from scripts.benchmark.cases import CHAIN, PLAIN
from scripts.benchmark.forked import side_by_side
from scripts.benchmark.nets import plain as plain_net
from scripts.benchmark.timing import Work, race

POINTS = ("dataset=two_moons", "energy=mlp", "energy.hidden=[128,128]", *PLAIN)


@dataclass(frozen=True)
class Series:
    """`what` grows over `values`; `overrides`: the config at one of them, {n}; `chains` and `steps`, None where n is
    their value."""

    what: str
    unit: str
    values: tuple[int, ...]
    overrides: tuple[str, ...]
    chains: int | None = 256
    steps: int | None = 10

    def config(self, n: int) -> list[str]:
        return [o.replace("{n}", str(n)) for o in self.overrides]


WIDE = ("dataset=gaussian", "dataset.dim={n}", "dataset.train=500", "dataset.held_out=10", *POINTS[1:3])
LANGEVIN = ("objective=cd", *CHAIN)
SERIES = (
    Series("chains", "one Langevin step", (1, 10, 100, 1000, 10_000, 100_000), (*POINTS, *LANGEVIN), None, 1),
    Series("k", "256 chains", (1, 10, 100, 1000), (*POINTS, *LANGEVIN), 256, None),
    Series(
        "dimension",
        "256 chains, 10 Langevin steps",
        (2, 12, 48, 192, 768, 3072),
        (*WIDE, *PLAIN, *LANGEVIN),
    ),
    Series(
        "projections",
        "one step of ssm, batch 256",
        (1, 4, 16, 64),
        (*POINTS, "objective=ssm", "objective.data_noise=0.0", "objective.projections={n}", "batch_size=256"),
        None,
        0,
    ),
)


def grow(compose: ours.Compose, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every series with one thread; medians of at most seven rounds are precise enough for slopes."""
    records = []
    for series in SERIES:
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        for n in series.values:
            names = ("ours", "plain") if series.steps != 0 else ("ours",)
            with side_by_side({name: partial(enter, name, series, n, compose) for name in names}) as (here, _):
                result = race(here, "ours", min(7, rounds))
            for name in result.names:
                seconds[name].append(result.seconds_of(name, "cpu"))
        slopes = {name: slope(series.values, times) for name, times in seconds.items() if times}
        records.append(
            {
                "what": series.what,
                "unit": series.unit,
                "values": list(series.values),
                "seconds": {name: times for name, times in seconds.items() if times},
                "slope": slopes,
            }
        )
        told = ", ".join(f"{1000 * t:.3g}" for t in seconds["ours"])
        say(f"growth with {series.what} {series.values}: {told} ms; slope of the upper half {slopes['ours']:.2f}")
    return records


def enter(name: str, series: Series, n: int, compose: ours.Compose) -> tuple[Work, None]:
    """Make the work in a process of its own, as in a race."""
    if name == "ours":
        keep_freed_memory()
    torch.set_num_threads(1)
    return work(series, n, compose)[name], None


def work(series: Series, n: int, compose: ours.Compose) -> dict[str, Work]:
    """Build ours and the reference at one n; ours only for projections, which the reference takes one at a time."""
    trainer = ours.build(compose, series.config(n), 1, ours.BASELINE)
    if series.steps == 0:
        return {"ours": ours.stepping(trainer)}
    chains, steps, sampler = series.chains or n, series.steps or n, trainer.evaluations.sampler
    assert sampler is not None
    sampler.steps = steps
    net, eps = plain_net(trainer.state.objective.energy), ours.size_of_step(sampler)
    x = start_law(trainer.evaluations.dataset).sample(chains, trainer.state.generator)
    return {
        "ours": ours.sampling(trainer, chains),
        "plain": peers.chained(x, lambda x: plain.langevin(net, x, steps, eps)),
    }


def slope(values: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit the slope of log(seconds) over log(values) in the upper half of the values."""
    half = len(values) // 2
    x, y = [math.log(v) for v in values[half:]], [math.log(s) for s in seconds[half:]]
    mean = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean[0]) * (b - mean[1]) for a, b in zip(x, y, strict=True))
    return top / sum((a - mean[0]) ** 2 for a in x)
