"""The gap to the truth over the CPU-seconds of training, as SVG: one line per arm, both axes logarithmic.

Text and background colours are CSS variables with defaults, so that the chart follows a page's theme and also works
alone.
"""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from ebm_lab.reports.compare.table import THRESHOLD, Point

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 170, 14, 48
LOWEST, HIGHEST = 1e-3, 10.0
"""Range of gaps in nats; values outside are drawn on the edge."""
INK, FAINT, PAPER = "var(--ink, #222)", "var(--rule, #ddd)", "var(--paper, #fff)"
HUES = (210, 25, 140, 285, 0, 180, 48, 330, 95, 225, 15, 160, 305, 70)
DASHES = ("", "6 3", "2 3")


def chart(curves: Mapping[str, Sequence[Point]], label: str) -> str:
    """Return the chart as SVG, '' if there is no point to draw. `curves`: by arm's label, in the order of colours."""
    curves = {name: points for name, points in curves.items() if points}
    times = [t for points in curves.values() for t, _, _ in points if t > 0]
    if not times:
        return ""
    gaps = [min(HIGHEST, max(LOWEST, gap)) for points in curves.values() for _, _, gap in points]
    x_low, x_high = min(times), max(max(times), 1.0001 * min(times))
    y_low, y_high = _round(min(gaps), up=False), max(_round(max(gaps), up=True), 2 * THRESHOLD)

    def x(t: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(t, x_low) / x_low) / math.log(x_high / x_low)

    def y(gap: float) -> float:
        share = math.log(min(y_high, max(y_low, gap)) / y_low) / math.log(y_high / y_low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [_frame(label)]
    for value in _ticks(y_low, y_high, (1, 2, 5)):
        parts.append(_rule(LEFT, y(value), WIDTH - RIGHT, y(value), FAINT))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", "end"))
    for value in _ticks(x_low, x_high, (1, 2, 5)):
        parts.append(_rule(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 5, INK))
        parts.append(_text(x(value), HEIGHT - BOTTOM + 19, f"{value:g}", "middle"))
    parts.append(_rule(LEFT, y(THRESHOLD), WIDTH - RIGHT, y(THRESHOLD), INK, "4 4"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "CPU-seconds of training", "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, "gap to the truth, nats", "middle")}</g>')
    parts += _lines(curves, x, y)
    return "\n".join([*parts, "</svg>"])


def _lines(curves: Mapping[str, Sequence[Point]], x, y) -> list[str]:
    """Draw the lines, with each name at its line's end, moved so that names do not overlap."""
    parts, ends = [], []
    for i, (name, points) in enumerate(curves.items()):
        colour, dash = f"hsl({HUES[i % len(HUES)]} 65% 52%)", DASHES[i // 5 % len(DASHES)]
        path = " ".join(f"{x(t):.1f},{y(gap):.1f}" for t, _, gap in points)
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"'
        title = f"<title>{escape(name)}: {points[-1][2]:.4f} nats at the end</title>"
        parts.append(f'<polyline points="{path}" {stroke}>{title}</polyline>')
        ends.append((y(points[-1][2]), x(points[-1][0]), name, colour))
    ends.sort()
    places = apart([end[0] for end in ends], 13.0, TOP + 6, HEIGHT - BOTTOM + 4)
    edge = WIDTH - RIGHT
    for place, (height, end, name, colour) in zip(places, ends, strict=True):
        leader = f"{end:.1f},{height:.1f} {edge + 4},{height:.1f} {edge + 22},{place:.1f} {edge + 28},{place:.1f}"
        parts.append(f'<polyline points="{leader}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        parts.append(_text(edge + 32, place + 4, name, "start"))
    return parts


def apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Move the ascending `places` at least `least` apart, within `low` and `high` if there is room."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, low, moved[-1] + least if moved else low))
    for i in reversed(range(len(moved))):
        ceiling = high if i == len(moved) - 1 else moved[i + 1] - least
        moved[i] = min(moved[i], ceiling)
    return moved


def _round(value: float, up: bool) -> float:
    """Round up or down to one of 1, 2, 5, 10, ..."""
    near = [s * 10.0**d for d in range(-4, 3) for s in (1, 2, 5)]
    return min(n for n in near if n >= value * 0.999) if up else max(n for n in near if n <= value * 1.001)


def _ticks(low: float, high: float, steps: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [s * 10.0**d for d in decades for s in steps if low * 0.999 <= s * 10.0**d <= high * 1.001]


def _frame(label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(label, {chr(34): "&quot;"})}" font-family="system-ui, sans-serif" '
        f'font-size="12">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{colour}" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
