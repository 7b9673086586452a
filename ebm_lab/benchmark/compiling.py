"""What compiling a step costs and saves, at the default settings of an objective.

    steps to break even = (CPU time of compiling) / (CPU time of an eager step - of a compiled one)

Compiling is measured twice, in fresh processes: with torch's cache on disk empty, and with what the first one left
there, which is how the other runs of a sweep find it. It is the CPU time of the second step, with the compilers that
were started, less that of a compiled step.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from ebm_lab.benchmark import ours
from ebm_lab.benchmark.apart import alone
from ebm_lab.benchmark.timing import calibrate, timed
from ebm_lab.core.memory import keep_freed_memory

CHOICES = {
    **{f"{o}, two_moons": (f"objective={o}", "dataset=two_moons") for o in ("cd", "pcd", "dsm", "ssm", "sm", "nce")},
    **{f"{o}, digits": (f"objective={o}",) for o in ("pcd", "dsm")},
}
ON, OFF = "compile=on", "compile=off"


def costs(compose: ours.Compose, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every choice."""
    records = []
    for name, choice in CHOICES.items():
        with tempfile.TemporaryDirectory() as cache:
            eager = alone(partial(step, compose, choice, OFF, cache))["step"]
            cold, warm = (alone(partial(step, compose, choice, ON, cache)) for _ in range(2))
        saved = eager - cold["step"]
        record = {"name": name, "eager": eager, "compiled": cold["step"], "cold": cold["made"], "warm": warm["made"]}
        record["even"] = {k: record[k] / saved if saved > 0 else float("inf") for k in ("cold", "warm")}
        records.append(record)
        say(
            f"compiling, {name}: {1000 * eager:.2f} -> {1000 * cold['step']:.2f} ms a step for {cold['made']:.1f} CPU-s"
            f" ({warm['made']:.1f} with a cache): even after {record['even']['cold']:,.0f} steps"
            f" ({record['even']['warm']:,.0f})"
        )
    return records


def step(compose: ours.Compose, choice: Sequence[str], how: str, cache: str) -> dict[str, float]:
    """CPU-seconds of a step, and those that went into making it ready."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    keep_freed_memory()
    trainer = ours.build(compose, [*choice, how], 1)
    from torch._inductor import config

    config.compile_threads = 1  # compilers that this process starts and waits for, so that their time is known
    work = ours.stepping(trainer)
    work()
    began = spent()
    work()
    second = spent() - began
    block_of = partial(timed, work)
    repeats = calibrate(block_of, 0.1)
    each = median(block_of(repeats)[0] for _ in range(9))
    return {"step": each, "made": second - each}


def spent() -> float:
    """CPU-seconds of this process and of those that it waited for."""
    t = os.times()
    return time.process_time() + t.children_user + t.children_system
