"""Tables of numbers in text files: where a cell ends, whether the first line holds names, and which row is wrong.

The text is UTF-8, with or without a byte-order mark. Cells are separated by semicolons, commas, tabs or blanks,
whichever of them, in this order, the last line holds; they may be quoted. Blank lines and lines that begin with # are
passed over. A first line without a single number is a line of names; a line that mixes numbers with anything else is
refused, as is a row with more or fewer cells than the others.
"""

import csv
import io
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

EMPTY = {"", "na", "n/a", "<na>", "null", "none", "nil", "missing", "-", "--", "?", "."}
"""How tables spell a cell without a value, in lower case. Python reads `nan` as a number."""
LIKE_A_NUMBER = re.compile(r"(?=.*\d)[-+\d.,_'%\s]+")
"""A cell such as 1,5 or 1'000 or 5%, which is no name, even where it can't be read as a number."""
SPREADSHEET_ERROR = re.compile(r"#(N/A|[A-Z0-9/]+[!?])")
"""A cell such as #N/A or #DIV/0!, which is no comment."""


class Table(NamedTuple):
    """rows: (n, d) in float64, in which nan and inf may stand; lines: the line of the file that each row is in, counted
    from 1; notes: what was decided about the file, for the user."""

    rows: np.ndarray
    lines: list[int]
    notes: list[str]


def read_table(path: Path) -> Table:
    """Read a table. Raises OSError, or ValueError with one line that names the row, counted from 1 below any names."""
    text = _decoded(path.read_bytes())
    lines, passed = _lines(text)
    notes = [f"{path}: passed over {len(passed)} line(s) that begin with #, from line {passed[0]} on"] if passed else []
    return _parse(lines, path, notes)


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16 text; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} holds the byte {raw[error.start]:#04x}, which is not UTF-8 text; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("it holds zero bytes, so it is not UTF-8 text; save it as UTF-8")
    return text


def _lines(text: str) -> tuple[list[tuple[int, str]], list[int]]:
    """(number, line) of the lines that count; and the numbers of the comments below the first of these, where they may
    have been rows."""
    kept: list[tuple[int, str]] = []
    passed: list[int] = []
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        bare = line.strip(" \r\n")
        if bare.startswith("#") and not SPREADSHEET_ERROR.match(bare):
            passed += [number] if kept else []
        elif bare:
            kept.append((number, line))
    return kept, passed


def _cells(lines: list[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each line."""
    last = lines[-1][1]
    separator = next((s for s in ";,\t" if s in last), " " if len(last.split()) > 1 else ",")
    blanks = separator == " "
    at = 0

    def feed() -> Iterator[str]:
        nonlocal at
        for at, line in lines:  # noqa: B007 (the number is read below)
            yield line.replace("\t", " ") if blanks else line

    try:
        for cells in csv.reader(feed(), delimiter=separator, skipinitialspace=True, strict=True):
            yield at, [c.strip() for c in cells if c or not blanks]
    except csv.Error as error:
        raise ValueError(f"line {at}: {error}") from None


def _parse(lines: list[tuple[int, str]], path: Path, notes: list[str]) -> Table:
    numbers, places = array("d"), []
    names: list[str] | None = None
    first: list[str] = []
    whole = False  # is any row but the first written in whole numbers only?
    for line, cells in _cells(lines) if lines else ():
        if not first and names is None and _are_names(cells):
            names = cells
            continue
        where = f"row {len(places) + 1} (line {line})"
        width = len(names or first or cells)
        if len(cells) != width:
            above = "the line of names" if names else "row 1"
            raise ValueError(f"{where} has {len(cells)} cell(s), and {above} has {width}")
        try:
            numbers.extend(map(_number, cells))
        except ValueError:
            raise ValueError(f"{where} {_fault(cells, alone=names is None and not first)}") from None
        places.append(line)
        if first and not whole:
            whole = _whole(cells)
        first = first or cells
    rows = np.frombuffer(numbers, dtype=np.float64).reshape(len(places), -1 if places else 0).copy()
    if names is None and len(places) > 1 and _whole(first):
        if _name_columns(first, whole, places[0]):
            notes = [*notes, f"{path}: line {places[0]} numbers the columns ({_shown(first)}), so it is no sample"]
            rows, places = rows[1:], places[1:]
        elif not whole:
            told = f"line {places[0]} is written in whole numbers ({_shown(first)}), as no other is"
            notes = [*notes, f"{path}: {told}; it counts as a sample"]
    if len(rows) > 2 and rows.shape[1] > 1 and bool((np.diff(rows[:, 0]) == 1).all()):
        notes = [*notes, f"{path}: column 1 counts the rows; if it is an index, take it out"]
    return Table(rows, places, notes)


def _are_names(cells: list[str]) -> bool:
    """Is the first line one of names? Raises ValueError where they are those of a table with its index."""
    first, *others = cells
    numbers = any(_is_number(c) or LIKE_A_NUMBER.fullmatch(c) for c in others)
    named = any(c.lower() not in EMPTY for c in others)
    if first in ("", "Unnamed: 0") and named and (not numbers or others == [str(i) for i in range(len(others))]):
        raise ValueError(
            "column 1 has no name, as where a program wrote the index of the rows; take that column out "
            "(pandas: index=False, R: row.names=FALSE)"
        )
    numbers = numbers or _is_number(first) or LIKE_A_NUMBER.fullmatch(first) is not None
    return not numbers and (named or first.lower() not in EMPTY)


def _name_columns(first: list[str], whole: bool, line: int) -> bool:
    """Does a first line of whole numbers number the columns, as programs do that write columns without names? Raises
    ValueError where it could as well be a sample."""
    numbers = [int(c) for c in first]
    if len(first) < 2 or numbers != [numbers[0] + i for i in range(len(first))]:
        return False
    if whole and numbers[0] == 0:
        raise ValueError(
            f"row 1 (line {line}) is {_shown(first)}: the numbers of the columns, or a sample? Put a line of names "
            f"in its place, or above it"
        )
    return not whole


def _fault(cells: list[str], alone: bool) -> str:
    """What is wrong with a row that does not hold numbers alone."""
    column, cell = next((i, c) for i, c in enumerate(cells, 1) if not _is_number(c))
    told = f"has no number in column {column}" if not cell else f"holds {cell[:40]!r} in column {column}, no number"
    return f"{told}; it is no line of names either, for those hold no number" if alone and len(cells) > 1 else told


def _number(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000 as a number, and a table does not mean it
        raise ValueError
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _whole(cells: list[str]) -> bool:
    return all(c.lstrip("+-").isdecimal() for c in cells)


def _shown(cells: list[str]) -> str:
    return ", ".join(cells if len(cells) < 5 else [*cells[:2], "...", cells[-1]])
