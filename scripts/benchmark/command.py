"""The command line of the benchmark: what the lab costs beside a plain loop and beside other libraries."""

import os
import sys

from pydantic import PositiveInt

from ebm_lab.core.errors import UserError, one_of

PARTS = ("samplers", "steps", "compile", "policy", "bfloat16", "loop", "startup", "memory", "growth", "gap")


def benchmark(
    *,
    only: str = "all",
    rounds: PositiveInt = 31,
    threads: str = "1,2",
    seeds: PositiveInt = 1,
    out: str = "outputs/benchmark",
) -> None:
    """Race the lab against a plain hand-written loop (the reference, 1), other libraries and the floor.

    only: parts with commas between, of samplers, steps, compile, policy, bfloat16, loop, startup, memory, growth, gap,
    or all; rounds: of each race, at least 31 for an interval worth printing; threads: of each race, as 1,2; seeds: how
    many, of gap; out: the folder for benchmark.json, benchmark.png and performance.md; parts that are not asked for
    stay in benchmark.json as they were. Other libraries take part where they are installed: pip install -e '.[bench]'.
    """
    parts, counts = chosen(only), counted(threads)
    from pathlib import Path

    from ebm_lab.cli.compose import compose_config
    from ebm_lab.reports.compare.page import machine
    from scripts.benchmark import whole

    said = " ".join(a for a in sys.argv[1:] if not a.startswith("out="))
    command = f"python scripts/benchmark.py {said}".strip()
    for path in whole.run(parts, rounds, counts, seeds, Path(out), compose_config, command, machine(), say):
        print(path)


def say(line: str) -> None:
    print(line, flush=True)


def chosen(text: str) -> list[str]:
    """The parts that are asked for, in their usual order."""
    names = PARTS if text == "all" else [t.strip() for t in text.split(",") if t.strip()]
    for name in names:
        if name not in PARTS:
            raise one_of("only", name, PARTS)
    if not names:
        raise UserError(f"only={text}: give at least one; allowed: {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def counted(text: str) -> list[int]:
    """'1,2' -> [1, 2]."""
    pieces = [t.strip() for t in str(text).split(",")]
    most = os.cpu_count() or 1
    if not all(p.isdecimal() and 1 <= int(p) <= most for p in pieces):
        raise UserError(f"threads={text}: give whole numbers from 1 to this machine's {most} with commas between")
    return list(dict.fromkeys(map(int, pieces)))


def alone(name: str, who: str) -> None:
    """One contestant in this process, for its peak memory."""
    from ebm_lab.cli.compose import compose_config
    from scripts.benchmark import process

    process.alone(compose_config, name, who)


def main_benchmark() -> None:
    """The console command: a mistake in the arguments is one line; no argument runs it all."""
    # OpenMP reads this once: as in train.py, threads that wait must not take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler has nothing to say to anyone
    from ebm_lab.cli.tools import main

    main(benchmark, sys.argv[1:] or ["only=all"])
