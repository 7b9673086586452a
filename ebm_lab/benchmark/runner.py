"""Run races and keep what they came to, as plain records for benchmark.json."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ebm_lab.benchmark import peers
from ebm_lab.benchmark.cases import Case, sampler_cases, step_cases
from ebm_lab.benchmark.field import REFERENCE, contestants, images_file
from ebm_lab.benchmark.ours import Compose
from ebm_lab.benchmark.timing import CLOCKS, Race, Work, race

Say = Callable[[str], None]


def races(
    kind: str, compose: Compose, rounds: int, threads: Sequence[int], say: Say, cases: Sequence[Case] = ()
) -> list[dict[str, Any]]:
    """Race every case of a kind under each number of threads."""
    cases = cases or (sampler_cases() if kind == "samplers" else step_cases())
    others, before, records = list(peers.versions()), torch.get_num_threads(), []
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder))
        try:
            for count in threads:
                for case in cases:
                    if count > 1 and case.one_thread:
                        continue
                    records.append(one(case, compose, rounds, count, images, others))
                    say(line(records[-1]))
        finally:
            torch.set_num_threads(before)
    return records


def one(case: Case, compose: Compose, rounds: int, threads: int, images: str, others: list[str]) -> dict[str, Any]:
    """One race, as a record."""
    torch.manual_seed(0)
    found = contestants(case, compose, threads, images, others)
    torch.set_num_threads(threads)
    result = race(found.work, REFERENCE, rounds)
    return {
        "kind": case.kind,
        "what": case.what,
        "where": case.where,
        "threads": threads,
        "chains": case.chains,
        "steps": case.steps,
        "gradients": found.gradients,
        "results": {name: summary(result, name) for name in result.names},
        "against": {
            name: {p: asdict(result.ratio(name, "cpu", p)) for p in found.work if p in others}
            for name in result.names
            if name.startswith("ours")
        },
        "profile": profile(found.work["ours"]) if threads == 1 else {},
        "absent": found.absent,
    }


def summary(result: Race, name: str) -> dict[str, Any]:
    """Median seconds per unit of work and the ratio to the reference, by each clock."""
    return {
        clock: {"seconds": result.seconds_of(name, clock), "ratio": asdict(result.ratio(name, clock))}
        for clock in CLOCKS
    }


def line(record: dict[str, Any]) -> str:
    """A record for the terminal: ratios of CPU time, the reference's own time in ms."""
    parts = []
    for name, by in record["results"].items():
        r = by["cpu"]["ratio"]
        if name == REFERENCE:
            parts.append(f"{name} {1000 * by['cpu']['seconds']:.3g} ms")
        else:
            parts.append(f"{name} {r['middle']:.2f} [{r['low']:.2f}, {r['high']:.2f}]")
    head = f"{record['what']}, {record['where']}"
    return f"{record['threads']} thread{'s' * (record['threads'] > 1)}  {head:<58} {'  '.join(parts)}"


def profile(work: Work, most: int = 5) -> dict[str, float]:
    """The operations that take most of one unit of work: shares of the time that torch spends in operations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        work()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    total = sum(spent.values()) or 1.0
    return {name: round(spent[name] / total, 3) for name in sorted(spent, key=lambda n: -spent[n])[:most]}
