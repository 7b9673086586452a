"""What compiling a step costs and saves, at the default settings of an objective.

    steps to break even = (CPU time of compiling) / (CPU time of an eager step - of a compiled one)

beside the number from which `compile=auto` compiles, by what a step does (training/compile/policy.py).

Compiling is measured twice, in fresh processes: with torch's cache on disk empty, and with what the first one left
there, which is how the other runs of a sweep find it. It is the CPU time of the second step, with the compilers that
were started, less that of a compiled step.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ebm_lab.training.compile import policy as worth
from ebm_lab.training.memory import keep_freed_memory
from ebm_lab.training.trainer import Trainer
from scripts.benchmark import ours
from scripts.benchmark.apart import alone
from scripts.benchmark.cases import NETWORKS, filled
from scripts.benchmark.field import images_file
from scripts.benchmark.timing import calibrate, timed

CHOICES = {
    **{f"{o}, two_moons": (f"objective={o}", "dataset=two_moons") for o in ("cd", "pcd", "dsm", "ssm", "sm", "nce")},
    **{f"{o}, digits": (f"objective={o}",) for o in ("pcd", "dsm", "multi_dsm")},
    **{f"{o}, 28 x 28 pixels": (f"objective={o}", *NETWORKS["28x28"]) for o in ("pcd", "dsm", "ssm", "nce")},
}
ON, OFF = "compile=on", "compile=off"


def costs(compose: ours.Compose, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every choice."""
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder))
        return [cost(compose, name, filled(choice, images), say) for name, choice in CHOICES.items()]


def cost(compose: ours.Compose, name: str, choice: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        eager = alone(partial(step, compose, choice, OFF, cache))
        first, later = (alone(partial(step, compose, choice, ON, cache)) for _ in range(2))
    record = {"name": name, "eager": eager["step"], "compiled": first["step"], "cold": first["made"]}
    record |= {"warm": later["made"], "auto_from": eager["auto_from"]}
    saved = record["eager"] - record["compiled"]
    record["even"] = {k: record[k] / saved if saved > 0 else float("inf") for k in ("cold", "warm")}
    cold, warm = (f"{record[k]:.1f} CPU-s, even after {record['even'][k]:,.0f} steps" for k in ("cold", "warm"))
    say(
        f"compiling, {name}: {1000 * record['eager']:.2f} -> {1000 * record['compiled']:.2f} ms a step; {cold}"
        f" (auto from {record['auto_from']:,.0f}); with a cache {warm}"
    )
    return record


def step(compose: ours.Compose, choice: Sequence[str], how: str, cache: str) -> dict[str, float]:
    """CPU-seconds of a step, and those that went into making it ready; from how many steps on `auto` compiles it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    keep_freed_memory()
    trainer = ours.build(compose, [*choice, how], 1)
    from torch._inductor import config

    config.compile_threads = 1  # compilers that this process starts and waits for, so that their time is known
    auto = auto_from(trainer)
    work = ours.stepping(trainer)
    work()
    began = spent()
    work()
    second = spent() - began
    block_of = partial(timed, work)
    repeats = calibrate(block_of, 0.1)
    each = median(block_of(repeats)[0] for _ in range(9))
    return {"step": each, "made": second - each, "auto_from": auto}


def auto_from(trainer: Trainer) -> float:
    """Steps from which `auto` would compile this run."""
    return worth.pays_from(worth.work(trainer.state.objective, trainer.batches(1)[0]))


def spent() -> float:
    """CPU-seconds of this process and of those that it waited for."""
    t = os.times()
    return time.process_time() + t.children_user + t.children_system
