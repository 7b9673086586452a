"""Measurements of a whole process: the time from its start to the first step, and its peak memory.

Memory is the high-water mark of the resident set, `VmHWM`, where the system tells it: `ru_maxrss` counts what the
parent had when it forked. A process that has everything built and has done nothing yet has its own mark, so that what
the work itself takes is the difference.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from ebm_lab.training.memory import keep_freed_memory
from scripts.benchmark import ours, peers
from scripts.benchmark.cases import NETWORKS, PLAIN, Case, sampler_case, step_cases
from scripts.benchmark.field import contestants, images_file

ROOT = Path(ebm_lab.__file__).resolve().parent.parent
FIRST = ("steps=1", "samples=4", "sample_steps=1", "logger.mode=offline")
"""Overrides of the default run that end it after its first step and shorten the evaluation that follows."""


def memory_cases() -> dict[str, Case]:
    """Select a few cases that need much memory."""
    steps = {c.name: c for c in step_cases()}
    many = sampler_case("langevin", "perceptron 2-128-128-1, 100,000 chains", NETWORKS["2-D"], PLAIN, 100_000, 3)
    names = ("ssm, convolutions, 28 x 28 pixels, batch 64", "sm, perceptron 64-128-128-1, batch 256")
    return {many.name: replace(many, kind="samplers"), **{name: steps[name] for name in names}}


def startup(say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the seconds from the start of `python train.py` (digits, all defaults) to its first step, imports
    included: three times, wall and CPU."""
    runs = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            script = [str(ROOT / "train.py")] if (ROOT / "train.py").is_file() else ["-c", MAIN]
            child([*script, *FIRST, f"output_dir={folder}"])
            (summary,) = Path(folder).glob("runs/*/summary.json")
            runs.append(json.loads(summary.read_text(encoding="utf-8")))
    found = {key: [run[key] for run in runs] for key in ("startup_seconds", "startup_cpu_seconds")}
    record = {"runs": found, **{key: median(values) for key, values in found.items()}}
    say(f"start-up: {record['startup_seconds']:.2f} s, of which {record['startup_cpu_seconds']:.2f} CPU-s")
    return record


MAIN = "from ebm_lab.cli.main import main; main()"
ALONE = "import sys; from scripts.benchmark.command import alone; alone(*sys.argv[1:])"


def memory(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the peak memory of each contestant of each case in a process of its own."""
    records = []
    for name in memory_cases():
        found = {}
        for who in ("ours", "plain", *peers.versions()):
            told = json.loads(child(["-c", ALONE, name, who]).splitlines()[-1])
            if told:
                found[who] = told
        records.append({"name": name, "megabytes": found})
        parts = [f"{who} {m['peak']:.0f} MB (+{m['peak'] - m['before']:.0f})" for who, m in found.items()]
        say(f"memory, {name}: {'  '.join(parts)}")
    return records


def alone(compose: ours.Compose, name: str, who: str) -> None:
    """Run three units of one contestant's work and print the peak memory; meant for a process of its own."""
    torch.set_num_threads(1)
    if who == "ours":
        keep_freed_memory()
    case = memory_cases()[name]
    with tempfile.TemporaryDirectory() as folder:
        others = [who] if who in peers.PEERS else []
        found = contestants(case, compose, 1, images_file(Path(folder)), others, only=who)
        before = high_water()
        for work in found.work.values():
            for _ in range(3):
                work()
    print(json.dumps({"before": before, "peak": high_water()} if found.work else {}))


def high_water() -> float:
    """Return the largest memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1000)


def child(arguments: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a Python process of this package and return its output."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    full = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", env=full)
    if done.returncode:
        raise UserError(f"{' '.join(arguments)[:60]}: failed, {(done.stderr.splitlines() or [''])[-1]}")
    return done.stdout
