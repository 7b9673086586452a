"""Write docs/performance.md from benchmark.json, so that no number is written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.field import KEPT, REFERENCE
from scripts.benchmark.targets import energy_over_score, misses

OVER = "ours / floor"
COLUMNS = ("ours", "ours compiled", "ours bf16", KEPT, "torchebm", "ebmkit", "floor", OVER)
TITLES = {"samplers": "Samplers", "steps": "One training step", "levels": "One training step at many noise levels"}


def write(record: Mapping[str, Any], out: Path, picture: bool) -> Path:
    """Fill the template; return the path of performance.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    parts = record["parts"]
    path = out / "performance.md"
    path.write_text(
        environment.get_template("performance.md").render(
            parts=parts,
            tables=[t for kind in TITLES for t in tables(kind, parts.get(kind, {}).get("results", ()))],
            energy_over_score=energy_over_score(parts),
            misses=list(misses(parts)),
            commands=commands(parts),
            left_out=record.get("left_out", {}),
            absent=absent(parts),
            picture=picture,
        ),
        encoding="utf-8",
    )
    return path


def commands(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the commands and machines that made the parts; equal ones are joined."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        m = part["machine"]
        peers = ", ".join(f"{n} {v}" for n, v in m["peers"].items()) or "no other library"
        told = f"{m['processor']}, {m['cores']}, torch {m['torch']}, {peers}, commit {m['commit']}"
        line = found.setdefault(f"{part['command']}{told}", {"command": part["command"], "told": told, "parts": []})
        line["parts"].append(f"{name} ({part['minutes']:g} min)")
    return list(found.values())


def tables(kind: str, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a table of CPU time for each number of threads, and one of wall time for several threads."""
    found = []
    for threads in sorted({r["threads"] for r in records}):
        mine = [r for r in records if r["threads"] == threads]
        for clock in ("cpu",) if threads == 1 else ("wall", "cpu"):
            columns = [c for c in COLUMNS if any({OVER: "floor"}.get(c, c) in r["results"] for r in mine)]
            rows = [row(r, columns, clock) for r in mine]
            said = "CPU time" if clock == "cpu" else "wall time"
            title = f"{TITLES[kind]}, {threads} thread{'s' if threads > 1 else ''}, {said}"
            found.append({"title": title, "kind": kind, "columns": columns, "rows": rows})
    return found


def row(record: Mapping[str, Any], columns: Sequence[str], clock: str) -> dict[str, Any]:
    plain = record["results"][REFERENCE][clock]["seconds"]
    mine = record["results"].get("ours", record["results"][REFERENCE])[clock]["seconds"]
    return {
        "name": f"{record['what']}, {record['where']}",
        "plain": f"{1000 * plain:.3g}",
        "rate": rate(record, mine),
        "cells": [over(record, clock) if c == OVER else ratio(record["results"].get(c), clock) for c in columns],
    }


def rate(record: Mapping[str, Any], seconds: float) -> str:
    """Return our chain steps or training steps per second."""
    per = record["chains"] * record["steps"] / seconds if record["kind"] == "samplers" else 1 / seconds
    return f"{per:.3g}" if per < 1000 else f"{float(f'{per:.3g}'):,.0f}"


def ratio(result: Mapping[str, Any] | None, clock: str) -> str:
    if result is None:
        return ""
    r = result[clock]["ratio"]
    return f"{r['middle']:.2f} ({r['low']:.2f} to {r['high']:.2f})"


def over(record: Mapping[str, Any], clock: str) -> str:
    """Return our median time over that of the floor."""
    ours, floor = (record["results"].get(who) for who in ("ours", "floor"))
    return "" if not (ours and floor) else f"{ours[clock]['ratio']['middle'] / floor[clock]['ratio']['middle']:.2f}"


def absent(parts: Mapping[str, Any]) -> list[str]:
    """List the absent contestants with reason and case: 'torchebm: has no MALA (mala)'."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind in TITLES:
        for r in parts.get(kind, {}).get("results", ()):
            for who, why in r["absent"].items():
                there = found.setdefault((who, why), [])
                if r["what"] not in there:
                    there.append(r["what"])
    return [f"{who}: {why} ({', '.join(f'`{w}`' for w in where)})" for (who, why), where in sorted(found.items())]
