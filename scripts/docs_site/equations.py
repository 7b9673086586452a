"""Set the plain equations of docstrings, `E_x | sigma s(x + sigma eps) + eps |^2`, as HTML with symbols and indices.

A docstring is read in a terminal, so its equations are plain text. Here names of Greek letters and operators become
symbols, `_` and `^` become indices and powers, and what stands in columns becomes a table.
"""

import html
import itertools
import re
from collections.abc import Callable

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "theta": "θ", "lambda": "λ", "mu": "μ",
    "nu": "ν", "xi": "ξ", "pi": "π", "sigma": "σ", "tau": "τ", "phi": "φ", "omega": "ω", "Gamma": "Γ",
}  # fmt: skip
OPERATORS = {"grad": "∇", "sum": "∑", "prod": "∏", "int": "∫", "sqrt": "√"}
SIGNS = {
    "<->": "↔", "<-": "←", "->": "→", ">=": "≥", "<=": "≤", "||": "‖", " ~ ": " ∼ ", "..": "…", "-": "−"
}  # fmt: skip
"""In the order in which they are looked for."""
INDEXED = {*GREEK, *OPERATORS}
"""Names that take an index of any length, as single letters do; others, as `gap_i` and `max_theta`, take one letter."""
IsName = Callable[[str], bool]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9<>]+)*")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
SUBSCRIPT = re.compile(r"[A-Za-z0-9]+")
SUPERSCRIPT = re.compile(r"-?[A-Za-z0-9.]+(?:/\d+)?|\|[^|]+\|")


def equation(block: str, is_name: IsName) -> str:
    """Write a block of lines, each indented by four spaces, as an HTML table.

    is_name: is this the name of a metric, which stays as it is?
    """
    rows = ("".join(f"<td>{_cell(text, is_name)}</td>" for text in cells) for cells in columns(block))
    return f'<table class="equation">{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'


def columns(block: str) -> list[list[str]]:
    """Cut the lines where all of them have a gap of two spaces or more that ends in the same place."""
    lines = [line.removeprefix("    ") for line in block.splitlines()]
    width = max(map(len, lines))
    lines = [line.ljust(width) for line in lines]
    begins = [
        place
        for place in range(2, width)
        if all(line[place - 2 : place] == "  " for line in lines) and any(line[place] != " " for line in lines)
    ]
    cuts = [0, *(begins if len(lines) > 1 else []), width]
    return [[line[a:b].strip() for a, b in itertools.pairwise(cuts)] for line in lines]


def _cell(text: str, is_name: IsName) -> str:
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        f"<code>{html.escape(part, False)}</code>" if i % 2 else formula(part, is_name) for i, part in enumerate(parts)
    )


def formula(text: str, is_name: IsName) -> str:
    """Set a line of plain mathematics."""
    found, place = [], 0
    while place < len(text):
        if text[place] in "_^" and place and text[place - 1] != " ":
            shown, place = _index(text, place, is_name)
        elif text[place].isalpha():
            shown, place = _word(text, place, is_name)
        else:
            shown, place = _sign(text, place)
        found.append(shown)
    return "".join(found)


def _index(text: str, place: int, is_name: IsName) -> tuple[str, int]:
    """Set the index or the power at `place`; return it and the place behind it."""
    tag, rule = ("sub", SUBSCRIPT) if text[place] == "_" else ("sup", SUPERSCRIPT)
    begin = place + 1
    if text[begin : begin + 1] in ("(", "{"):
        end, depth = begin, 0
        while True:
            depth += (text[end] in "({") - (text[end] in ")}")
            end += 1
            if not depth:
                return f"<{tag}>{formula(text[begin + 1 : end - 1], is_name)}</{tag}>", end
    argument = rule.match(text, begin)
    if not argument:
        return html.escape(text[place], False), begin
    return f"<{tag}>{formula(argument[0], is_name)}</{tag}>", argument.end()


def _word(text: str, place: int, is_name: IsName) -> tuple[str, int]:
    """Set the letter, the symbol or the name at `place`; what follows `_` is left to `_index` if it is an index."""
    name, word = NAME.match(text, place), WORD.match(text, place)
    assert name and word
    base, more = word[0], name[0][len(word[0]) + 1 :]
    if more and (
        is_name(name[0]) or "_" in more or not (len(base) == 1 or base in INDEXED or len(more) == 1 or more in GREEK)
    ):
        return html.escape(name[0], False), name.end()
    end = word.end()
    if len(base) > 1:
        return GREEK.get(base, OPERATORS.get(base, base)), end
    if text[end : end + 1] == "~":
        return f"<i>{base}\u0303</i>", end + 1
    article = base == "a" and re.match(r" [a-z]{3}", text[end:])
    return base if article else f"<i>{base}</i>", end


def _sign(text: str, place: int) -> tuple[str, int]:
    half = re.compile(r"(?<![\w/])1/2(?![\w/])").match(text, place)
    if half:
        return "½", half.end()
    gap = re.compile(r" {2,}").match(text, place)
    if gap:
        return "&emsp;", gap.end()
    if text[place] == "'":
        return ("'" if re.search(r"[a-z]{2}$", text[:place]) and text[place + 1 : place + 2] == "s" else "′"), place + 1
    for plain, sign in SIGNS.items():
        if text.startswith(plain, place):
            return sign, place + len(plain)
    return html.escape(text[place], False), place + 1
