"""Draw the ratio to the plain loop in every race, and the growth of cost, 1,000 pixels wide."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_lab.core import pictures
from scripts.benchmark.field import KEPT
from scripts.benchmark.targets import best

FASTER, SLOWER, INK = "#0072b2", "#d55e00", "#222222"
MARKS = {"torchebm": ("^", "#009e73"), "ebmkit": ("s", "#cc79a7"), KEPT: ("D", "#e69f00"), "floor": ("|", INK)}
LOW, HIGH = 0.2, 4.0
"""The limits of the ratios' axis; values outside are drawn at the edge."""


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """Write the picture of the parts that were measured."""
    records = [r for kind in ("samplers", "steps") for r in parts.get(kind, {}).get("results", ())]
    records = [r for r in records if r["threads"] == 1]
    growth = parts.get("growth", {}).get("results", ())
    if not records and not growth:
        return
    bars, panels = 0.185 * len(records) + 1.0 if records else 0.0, 3.0 if growth else 0.0

    def paint(fig) -> None:
        heights = [h for h in (bars, panels) if h]
        areas = fig.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        if records:
            ratios(areas[0].subplots(), records)
        if growth:
            grown(areas[-1].subplots(1, len(growth), squeeze=False)[0], growth)

    pictures.save_png(pictures.figure(paint, 10, bars + panels), path)


def ratios(axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw a bar from 1 to our ratio in each race, with its interval, and a mark for each other contestant."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    seen: set[str] = set()
    for row, record in enumerate(records):
        who = best(record) or "ours"
        ratio = record["results"][who]["cpu"]["ratio"]
        middle, low, high = (min(HIGH, max(LOW, ratio[k])) for k in ("middle", "low", "high"))
        colour = SLOWER if ratio["middle"] > 1 else FASTER
        axes.barh(row, middle - 1, left=1, height=0.72, color=colour, alpha=0.75, zorder=2)
        axes.plot([low, high], [row, row], color=INK, lw=1.4, zorder=4)
        for name, (mark, tint) in MARKS.items():
            if name in record["results"]:
                at = min(HIGH, max(LOW, record["results"][name]["cpu"]["ratio"]["middle"]))
                axes.plot(at, row, mark, color=tint, ms=9 if mark == "|" else 4.5, mew=1.6 if mark == "|" else 0.6,
                          zorder=3, label=name if name not in seen else None)  # fmt: skip
                seen.add(name)
        if row and record["kind"] != records[row - 1]["kind"]:
            axes.axhline(row - 0.5, color=INK, lw=0.8)
    axes.axvline(1, color=INK, lw=1.2, zorder=5)
    names = [f"{r['what']}, {r['where']}{'  (compiled)' if best(r) == 'ours compiled' else ''}" for r in records]
    axes.set(xscale="log", xlim=(LOW, HIGH), ylim=(len(records) - 0.4, -0.6))
    axes.set_yticks(range(len(records)), names, fontsize=8)
    ticks = [0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{t:g}" for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8, labeltop=True, top=True)
    axes.grid(axis="x", color="#dddddd", lw=0.6, zorder=0)
    axes.set_xlabel("CPU time, as a ratio to the plain loop (1): bars are ours, lines their 95 % intervals", fontsize=9)
    if seen:
        axes.legend(loc="lower right", fontsize=8, framealpha=1.0)


def grown(row, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw time over n, with a line of slope 1 through the last point."""
    from matplotlib.ticker import LogLocator

    for axes, r in zip(row, records, strict=True):
        n = r["values"]
        for (name, times), (mark, tint) in zip(r["seconds"].items(), (("o-", FASTER), ("x--", SLOWER)), strict=False):
            axes.loglog(n, [1000 * t for t in times], mark, color=tint, ms=4, lw=1.3, label=name)
        last = 1000 * r["seconds"]["ours"][-1]
        axes.loglog(n, [last * v / n[-1] for v in n], ":", color=INK, lw=1, label="slope 1")
        axes.set_ylim(bottom=0.5 * 1000 * min(min(t) for t in r["seconds"].values()))
        axes.set_title(f"{r['what']}: slope {r['slope']['ours']:.2f}", fontsize=9)
        axes.set_xlabel(f"{r['what']}\n({r['unit']})", fontsize=8)
        axes.xaxis.set_major_locator(LogLocator(10, numticks=1 + math.ceil(math.log10(n[-1]))))
        axes.tick_params(labelsize=8)
    row[0].set_ylabel("ms, CPU time", fontsize=8)
    row[0].legend(fontsize=7, loc="upper left")
