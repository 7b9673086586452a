"""Run all parts of the benchmark in turn, and save each to benchmark.json as soon as it is done."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ebm_lab.core.errors import UserError
from ebm_lab.core.files import write_atomic
from ebm_lab.runs.record import git_commit
from scripts.benchmark import compiling, gap, growth, loop, page, peers, picture, process, rounding, runner
from scripts.benchmark.cases import left_out
from scripts.benchmark.ours import Compose

Say = Callable[[str], None]


def run(
    parts: Sequence[str],
    rounds: int,
    threads: Sequence[int],
    seeds: int,
    out: Path,
    compose: Compose,
    command: str,
    machine: Mapping[str, str],
    say: Say,
) -> list[Path]:
    """Run the parts; return the files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: can't be made ({error.strerror})") from None
    file = out / "benchmark.json"
    record = kept(file)
    found = peers.versions()
    for name in peers.PEERS:
        if name not in found:
            say(f"{name} is not installed and is left out; pip install -e '.[bench]' brings it")
    # Asked for once: the first part that is written changes a working tree that holds docs/benchmark.json.
    here = {**machine, "torch": torch.__version__, "commit": git_commit(), "peers": found}
    do: dict[str, Callable[[], Any]] = {
        "samplers": lambda: runner.races("samplers", compose, rounds, threads, say),
        "steps": lambda: runner.races("steps", compose, rounds, threads, say),
        "levels": lambda: runner.races("levels", compose, rounds, threads, say),
        "compile": lambda: compiling.costs(compose, say),
        "policy": lambda: compiling.policies(compose, measured(record, out)),
        "bfloat16": lambda: rounding.errors(compose, say),
        "loop": lambda: loop.loops(compose, rounds, say),
        "startup": lambda: process.startup(say),
        "memory": lambda: process.memory(say),
        "growth": lambda: growth.grow(compose, rounds, say),
        "gap": lambda: gap.gaps(compose, seeds, say),
    }
    for part in parts:
        began = os.times()
        results = do[part]()
        spent = os.times()
        record["parts"][part] = {
            "command": command,
            "rounds": rounds,
            "machine": here,
            "minutes": round((spent.elapsed - began.elapsed) / 60, 1),
            "results": results,
        }
        record["left_out"] = dict(left_out())
        write_atomic(file, json.dumps(record, indent=1) + "\n")
    return publish(record, out)


def measured(record: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Return the measured costs of compiling, from which the part `policy` is computed."""
    if "compile" not in record["parts"]:
        raise UserError(f"only=policy: {out} has no costs of compiling yet; measure them too, only=compile,policy")
    return record["parts"]["compile"]["results"]


def kept(file: Path) -> dict[str, Any]:
    """Read the results of an earlier benchmark."""
    if not file.is_file():
        return {"parts": {}}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return {**record, "parts": dict(record["parts"])}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"out={file.parent}: its {file.name} is no benchmark's; choose another folder") from None


def publish(record: dict[str, Any], out: Path) -> list[Path]:
    """Write the picture and the page from benchmark.json."""
    image = out / "benchmark.png"
    picture.draw(record["parts"], image)
    return [out / "benchmark.json", image, page.write(record, out, image.is_file())]
