"""Tables of numbers in text files: their separators, names in the first line, and errors that name the row.

The text is UTF-8, with or without a byte-order mark. Cells are separated by the first of semicolons, commas, tabs and
blanks that occurs in the last line; they may be quoted. Blank lines and lines that begin with # are skipped. A first
line without any number is a line of names. A line that mixes numbers with anything else is refused, and so is a row
with more or fewer cells than the others, or without a value in one of them. One column may hold class labels of any
kind.
"""

import csv
import io
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_lab.datasets._labels import column

EMPTY = {"", "na", "n/a", "<na>", "null", "none", "nil", "missing", "-", "--", "?", "."}
"""Spellings of a cell without a value, in lower case. Python reads `nan` as a number."""
LIKE_A_NUMBER = re.compile(r"(?=.*\d)[-+\d.,_'%\s]+")
"""A cell such as 1,5 or 1'000 or 5%, which is not a name, even if it can't be read as a number."""
SPREADSHEET_ERROR = re.compile(r"#(N/A|[A-Z0-9/]+[!?])")
"""A cell such as #N/A or #DIV/0!, which is not a comment."""
FIRST = 5
"""Missing values that an error names; it counts all."""


class Table(NamedTuple):
    """rows: (n, d) in float64, possibly with inf; lines: the line number of each row, counted from 1; notes: decisions
    about the file, for the user; names: those of the d columns, if the file has them; labels: the cells of the column
    of labels, (n,), if one was asked for."""

    rows: np.ndarray
    lines: list[int]
    notes: list[str]
    names: list[str] | None
    labels: list[str] | None


def read_table(path: Path, label: str | int | None = None) -> Table:
    """Read a table. label: the name or the index (from 0; -1: the last) of a column of labels, which is not among the
    rows. Raises OSError, UserError for a label that is no column, or ValueError with one line that names the row,
    counted from 1 after any names."""
    text = _decoded(path.read_bytes())
    lines, passed = _lines(text)
    notes = [f"{path}: skipped {len(passed)} line(s) that begin with #, from line {passed[0]} on"] if passed else []
    return _parse(lines, path, notes, label)


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
    """Return (number, line) of the lines to parse, and the numbers of the comments below the first of them, which may
    have been meant as rows."""
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
    """Yield (line number, cells) of each line."""
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


def _parse(lines: list[tuple[int, str]], path: Path, notes: list[str], label: str | int | None) -> Table:
    numbers, places = array("d"), []
    names: list[str] | None = None
    first: list[str] = []
    labels: list[str] = []
    absent: dict[tuple[int, int], str] = {}  # of each cell without a value, by row and column, what it holds
    at: int | None = None  # the column of labels
    whole = False  # whether any row but the first has whole numbers only
    for line, cells in _cells(lines) if lines else ():
        if not first and names is None and _are_names(cells):
            names = cells
            continue
        where = f"row {len(places) + 1} (line {line})"
        width = len(names or first or cells)
        if len(cells) != width:
            above = "the line of names" if names else "row 1"
            raise ValueError(f"{where} has {len(cells)} cell(s), and {above} has {width}")
        if first and not whole:
            whole = _whole(cells)
        if not first and label is not None:
            at = column(label, names, width)
        first = first or cells
        if at is not None:
            labels.append(cells[at])
            cells = [*cells[:at], "0", *cells[at + 1 :]]  # taken out below
        begun = len(numbers)
        try:
            numbers.extend(map(_number, cells))
        except ValueError:
            del numbers[begun:]  # those before the fault
            if fault := _fault(cells, names, alone=names is None and not places):
                raise ValueError(f"{where} {fault}") from None
            absent |= {(len(places), i): c for i, c in enumerate(cells) if _has_no_value(c)}
            numbers.extend(float("nan") if _has_no_value(c) else _number(c) for c in cells)
        places.append(line)
    rows = np.frombuffer(numbers, dtype=np.float64).reshape(len(places), -1 if places else 0).copy()
    if bool((missing := np.isnan(rows)).any()):
        raise ValueError(_missing(missing, absent, places, names))
    if names is None and len(places) > 1 and _whole(first):
        if _name_columns(first, whole, places[0]):
            notes = [*notes, f"{path}: line {places[0]} numbers the columns ({_shown(first)}), so it is not a sample"]
            rows, places, labels = rows[1:], places[1:], labels[1:]
        elif not whole:
            told = f"line {places[0]} is the only one in whole numbers ({_shown(first)})"
            notes = [*notes, f"{path}: {told}; it counts as a sample"]
    if len(rows) > 2 and rows.shape[1] > 1 and bool((np.diff(rows[:, 0]) == 1).all()):
        notes = [*notes, f"{path}: column 1 counts the rows; if it is an index, remove it"]
    if at is not None:
        rows = np.delete(rows, at, 1)
        names = names and [*names[:at], *names[at + 1 :]]
    return Table(rows, places, notes, names, None if at is None else labels)


def _missing(missing: np.ndarray, absent: dict[tuple[int, int], str], lines: list[int], names: list[str] | None) -> str:
    """Say where the values are missing, how many there are, and what to do."""
    shown = [(int(i), int(j)) for i, j in np.argwhere(missing)[:FIRST]]
    count = int(missing.sum())
    found = []
    for i, j in shown:
        cell = absent.get((i, j), "nan")
        what = f"holds {cell!r}" if cell else "has no number"
        found.append(f"row {i + 1} (line {lines[i]}) {what} in {_called(j, names)}")
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    alone = names is None and shown[0][0] == 0 and missing.shape[1] > 1
    told = "; it is not a line of names either, since those hold no numbers" if alone else ""
    return f"{count} value(s) are missing: {', '.join(found)}{more}; fill them in or drop their rows{told}"


def _has_no_value(cell: str) -> bool:
    return cell.lower() in EMPTY or SPREADSHEET_ERROR.fullmatch(cell) is not None


def _called(index: int, names: list[str] | None) -> str:
    return f"column {index + 1}" + (f" ('{names[index]}')" if names and names[index] else "")


def _are_names(cells: list[str]) -> bool:
    """Return whether the first line holds names. Raises ValueError if they are those of a table with its index."""
    first, *others = cells
    numbers = any(_is_number(c) or LIKE_A_NUMBER.fullmatch(c) for c in others)
    named = any(c.lower() not in EMPTY for c in others)
    if first in ("", "Unnamed: 0") and named and (not numbers or others == [str(i) for i in range(len(others))]):
        raise ValueError(
            "column 1 has no name, as if a program had written the row index there; remove that column "
            "(pandas: index=False, R: row.names=FALSE)"
        )
    numbers = numbers or _is_number(first) or LIKE_A_NUMBER.fullmatch(first) is not None
    return not numbers and (named or first.lower() not in EMPTY)


def _name_columns(first: list[str], whole: bool, line: int) -> bool:
    """Return whether a first line of whole numbers numbers the columns, as some programs do that write columns without
    names. Raises ValueError if it could as well be a sample."""
    numbers = [int(c) for c in first]
    if len(first) < 2 or numbers != [numbers[0] + i for i in range(len(first))]:
        return False
    if whole and numbers[0] == 0:
        raise ValueError(
            f"row 1 (line {line}) is {_shown(first)}: the numbers of the columns, or a sample? Put a line of names "
            f"in its place, or above it"
        )
    return not whole


def _fault(cells: list[str], names: list[str] | None, alone: bool) -> str:
    """Describe the first cell that holds a value which is not a number; return an empty string if none does."""
    found = next((i for i, c in enumerate(cells) if not _is_number(c) and not _has_no_value(c)), None)
    if found is None:
        return ""
    cell = cells[found]
    text = f"holds {cell[:40]!r} in {_called(found, names)}, which is not a number"
    if alone and len(cells) > 1:
        text += "; it is not a line of names either, since those hold no numbers"
    return text


def _number(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000 as a number, but a table does not mean one
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
