"""Run races and record their results for benchmark.json."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ebm_lab.training.memory import keep_freed_memory
from scripts.benchmark import peers
from scripts.benchmark.cases import Case, level_cases, sampler_cases, step_cases
from scripts.benchmark.field import KEPT, REFERENCE, contestants, images_file, references
from scripts.benchmark.forked import side_by_side
from scripts.benchmark.ours import Compose, variants
from scripts.benchmark.timing import CLOCKS, Race, Work, race

Say = Callable[[str], None]
CASES: dict[str, Callable[[], list[Case]]] = {"samplers": sampler_cases, "steps": step_cases, "levels": level_cases}


def races(
    kind: str, compose: Compose, rounds: int, threads: Sequence[int], say: Say, cases: Sequence[Case] = ()
) -> list[dict[str, Any]]:
    """Race every case of a kind under each number of threads."""
    cases = cases or CASES[kind]()
    others, records = list(peers.versions()), []
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder))
        for count in threads:
            for case in cases:
                if count > 1 and case.one_thread:
                    continue
                records.append(one(case, compose, rounds, count, images, others))
                say(line(records[-1]))
    return records


def one(case: Case, compose: Compose, rounds: int, threads: int, images: str, others: list[str]) -> dict[str, Any]:
    """Run one race and return its record: every contestant makes its work in its process, then they race."""
    own = ["ours", *(v.name for v in variants(case.kind, case.what, case.where))]
    names = [*own, *references(case), *others, "floor"]
    makers = {name: partial(enter, name, case, compose, threads, images, others) for name in names}
    with side_by_side(makers) as (here, told):
        result = race(here, REFERENCE, rounds)
        seen = here["ours"].ask(profile) if threads == 1 else {}
    return {
        "kind": case.kind,
        "what": case.what,
        "where": case.where,
        "threads": threads,
        "chains": case.chains,
        "steps": case.steps,
        "gradients": max(t["gradients"] for t in told.values()),
        "results": {name: summary(result, name) for name in result.names},
        "against": {
            name: {p: asdict(result.ratio(name, "cpu", p)) for p in here if p in others}
            for name in result.names
            if name.startswith("ours")
        },
        "profile": seen,
        "absent": {name: why for t in told.values() for name, why in t["absent"].items()},
    }


def enter(
    name: str, case: Case, compose: Compose, threads: int, images: str, others: list[str]
) -> tuple[Work | None, dict[str, Any]]:
    """Make the work of the contestant `name` in its process; only the lab's is prepared as `train.py` does."""
    if name.startswith("ours") or name == KEPT:
        keep_freed_memory()
    torch.manual_seed(0)
    found = contestants(case, compose, threads, images, others, only=name)
    torch.set_num_threads(threads)
    return found.work.get(name), {"absent": found.absent, "gradients": found.gradients}


def summary(result: Race, name: str) -> dict[str, Any]:
    """Compute the median seconds per unit of work and the ratio to the reference, by each clock."""
    return {
        clock: {"seconds": result.seconds_of(name, clock), "ratio": asdict(result.ratio(name, clock))}
        for clock in CLOCKS
    }


def line(record: dict[str, Any]) -> str:
    """Format a record for the terminal: ratios of CPU time, and the reference's own time in ms."""
    parts = []
    for name, by in record["results"].items():
        r = by["cpu"]["ratio"]
        if name == REFERENCE:
            parts.append(f"{name} {1000 * by['cpu']['seconds']:.3g} ms")
        else:
            parts.append(f"{name} {r['middle']:.2f} [{r['low']:.2f}, {r['high']:.2f}]")
    head = f"{record['what']}, {record['where']}"
    return f"{record['threads']} thread{'s' * (record['threads'] > 1)}  {head:<58} {'  '.join(parts)}"


def profile(work: Work | None, most: int = 5) -> dict[str, float]:
    """Return the operations that take most of one unit of work, as shares of the time spent in operations."""
    assert work is not None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as seen:
        work()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    total = sum(spent.values()) or 1.0
    return {name: round(spent[name] / total, 3) for name in sorted(spent, key=lambda n: -spent[n])[:most]}
