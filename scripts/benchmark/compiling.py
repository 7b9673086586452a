"""Measure what compiling a step costs and saves, at the default settings of an objective.

    steps to break even = (CPU time of compiling) / (CPU time of an eager step - of a compiled one)

and, from that, the cost of `compile=auto` (ebm_lab/training/compile/policy.py) beyond the better choice.

Compiling is measured twice, in fresh processes: with code that is new to torch's cache on disk, and with the cache that
the first process left, as the other runs of a sweep find it. Its cost is the CPU time of the second step, including the
compilers that it starts, less that of a compiled step. What torch does once on a machine, before it first compiles
anything (it tries the compiler and translates its own headers), is done beforehand.
"""

import os
import shutil
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ebm_lab.training.compile.policy import should_compile, takes_gradients
from ebm_lab.training.memory import keep_freed_memory
from scripts.benchmark import ours
from scripts.benchmark.cases import NETWORKS, filled
from scripts.benchmark.field import images_file
from scripts.benchmark.forked import Apart
from scripts.benchmark.timing import Work, race

CHOICES = {
    **{f"{o}, two_moons": (f"objective={o}", "dataset=two_moons") for o in ("cd", "pcd", "dsm", "ssm", "sm", "nce")},
    **{f"{o}, digits": (f"objective={o}",) for o in ("pcd", "dsm", "multi_dsm")},
    **{f"{o}, 28 x 28 pixels": (f"objective={o}", *NETWORKS["28x28"]) for o in ("pcd", "dsm", "ssm", "nce")},
}
ON, OFF = "compile=on", "compile=off"


def costs(compose: ours.Compose, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the costs of every choice."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as used:
        images = images_file(Path(folder))
        with Apart(partial(primed, used)) as first:
            first.told()
        return [cost(compose, name, filled(choice, images), used, say) for name, choice in CHOICES.items()]


def cost(
    compose: ours.Compose, name: str, choice: Sequence[str], used: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure one choice; the eager and the compiled step take turns, so that a busy machine slows both.

    used: torch's cache on a machine where it has compiled before, but not this code.
    """
    with tempfile.TemporaryDirectory() as cache:
        shutil.copytree(used, cache, dirs_exist_ok=True)
        makers = {how: partial(prepared, compose, choice, how, cache) for how in (OFF, ON)}
        with Apart(makers[OFF]) as eager, Apart(makers[ON]) as compiled:
            eager.told()
            second = {"cold": compiled.told()}
            result = race({OFF: eager, ON: compiled}, OFF, rounds=15, block=0.1)
        with Apart(makers[ON]) as later:
            second["warm"] = later.told()
    record: dict[str, Any] = {"name": name, "eager": result.seconds_of(OFF, "cpu")}
    record["compiled"] = record["eager"] * result.ratio(ON, "cpu").middle
    record |= {k: spent - record["compiled"] for k, spent in second.items()}
    saved = record["eager"] - record["compiled"]
    record["even"] = {k: record[k] / saved if saved > 0 else float("inf") for k in ("cold", "warm")}
    cold, warm = (f"{record[k]:.1f} CPU-s, even after {record['even'][k]:,.0f} steps" for k in ("cold", "warm"))
    say(
        f"compiling, {name}: {1000 * record['eager']:.2f} -> {1000 * record['compiled']:.2f} ms a step; {cold}"
        f"; with a cache {warm}"
    )
    return record


def primed(cache: str) -> tuple[None, None]:
    """Let torch do in `cache` what it does once on a machine."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    from torch._inductor import config

    config.compile_threads = 1
    torch.compile(torch.sin)(torch.zeros(64))
    return None, None


def prepared(compose: ours.Compose, choice: Sequence[str], how: str, cache: str) -> tuple[Work, float]:
    """Return the step, prepared, and the CPU-seconds of its second run, which compiles it if it is to be."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    keep_freed_memory()
    trainer = ours.build(compose, [*choice, how], 1)
    from torch._inductor import config

    config.compile_threads = 1  # this process then waits for the compilers, so that their time counts
    work = ours.stepping(trainer)
    work()
    began = spent()
    work()
    return work, spent() - began


PLANS = ((1, 1), (10, 1), (1, 5))
"""Plans: the length of a run relative to its recipe, and the number of such runs, one after another."""


def policies(compose: ours.Compose, costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compute the CPU-seconds of `auto` in the plans of every choice, from the measured `costs`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder))
        for record in costs:
            choice = filled(CHOICES[record["name"]], images)
            config, trainer = compose(choice), ours.build(compose, choice, 1)
            numbers = config["batch_size"] * trainer.evaluations.dataset.mean.numel()
            gradients = takes_gradients(trainer.state.objective)
            rows += [policy(record, times * config["steps"], numbers, gradients, runs) for times, runs in PLANS]
    return rows


def policy(record: Mapping[str, Any], steps: int, numbers: int, gradients: bool, runs: int) -> dict[str, Any]:
    """Compute the costs of one plan; `over` is the cost of `auto` beyond the better choice, relative to it."""
    eager = runs * steps * record["eager"]
    compiled = runs * steps * record["compiled"] + record["cold"] + (runs - 1) * record["warm"]
    picks = "compiled" if should_compile("auto", steps, numbers, gradients, runs) else "eager"
    over = (compiled if picks == "compiled" else eager) / min(eager, compiled) - 1
    row = {
        "name": record["name"],
        "steps": steps,
        "numbers": numbers,
        "gradients": gradients,
        "runs": runs,
        "eager": eager,
    }
    return {**row, "compiled": compiled, "picks": picks, "over": over, **extremes(record, numbers, gradients)}


def extremes(record: Mapping[str, Any], numbers: int, gradients: bool) -> dict[str, float]:
    """Compute the largest excess cost of `auto` in one run of any length.

    auto_from: the number of steps from which it compiles; early: its excess over an eager run there; missed: its excess
    over a compiled run, one step before.
    """
    first = bisect_left(range(10**7), True, key=lambda steps: should_compile("auto", steps, numbers, gradients))
    eager, compiled = record["eager"], record["compiled"]
    early = (first * compiled + record["cold"]) / (first * eager) - 1
    missed = (first - 1) * eager / ((first - 1) * compiled + record["cold"]) - 1
    return {"auto_from": first, "early": max(0.0, early), "missed": max(0.0, missed)}


def spent() -> float:
    """Return the CPU-seconds of this process and of the child processes that it waited for."""
    t = os.times()
    return time.process_time() + t.children_user + t.children_system
