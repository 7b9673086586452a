"""The command line of the benchmark."""

import os
import sys

from pydantic import PositiveInt

from ebm_lab.core.errors import UserError, one_of

PARTS = ("samplers", "steps", "levels", "compile", "policy", "bfloat16", "loop", "startup", "memory", "growth", "gap")


def benchmark(
    *,
    only: str = "all",
    rounds: PositiveInt = 31,
    threads: str = "1,2",
    seeds: PositiveInt = 1,
    out: str = "outputs/benchmark",
) -> None:
    """Race the lab against a plain hand-written loop (the reference, 1), other libraries and the floor.

    only: comma-separated parts out of samplers, steps, levels, compile, policy, bfloat16, loop, startup, memory,
    growth, gap, or all; rounds: of each race, at least 31 for a useful interval; threads: of each race, as 1,2; seeds:
    number of seeds of gap; out: the directory for benchmark.json, benchmark.png and performance.md, in which parts that
    are not asked for stay as they were. Other libraries take part if installed: pip install -e '.[bench]'.
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
    """Return the parts that are asked for, in their usual order."""
    names = PARTS if text == "all" else [t.strip() for t in text.split(",") if t.strip()]
    for name in names:
        if name not in PARTS:
            raise one_of("only", name, PARTS)
    if not names:
        raise UserError(f"only={text}: give at least one; allowed: {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def counted(text: str) -> list[int]:
    """Parse numbers of threads: '1,2' -> [1, 2]."""
    pieces = [t.strip() for t in str(text).split(",")]
    most = os.cpu_count() or 1
    if not all(p.isdecimal() and 1 <= int(p) <= most for p in pieces):
        raise UserError(f"threads={text}: give whole numbers from 1 to this machine's {most} with commas between")
    return list(dict.fromkeys(map(int, pieces)))


def alone(name: str, who: str) -> None:
    """Run one contestant in this process, for its peak memory."""
    from ebm_lab.cli.compose import compose_config
    from scripts.benchmark import process

    process.alone(compose_config, name, who)


def main_benchmark() -> None:
    """Run the console command; without arguments it runs all parts."""
    # As in train.py, waiting threads must not take cores from those that work; OpenMP reads this variable once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler
    from ebm_lab.cli.tools import main

    main(benchmark, sys.argv[1:] or ["only=all"])
