"""Class labels of rows: the column that holds them, and their numbers 0 to K - 1 in the sorted order of their names."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError, one_of

NO_LABEL = {"", "na", "n/a", "<na>", "#n/a", "nan", "null", "?"}
"""Spellings of a missing label, in lower case."""
SHOWN = 10
"""Classes that a note names."""


def column(label: str | int, names: list[str] | None, width: int) -> int:
    """Return the index of the column that `label` names among `width` columns, from 0; raise UserError if none is."""
    if isinstance(label, int):
        if not -width <= label < width:
            raise UserError(f"dataset.label={label}: there are {width} columns, 0 to {width - 1}, and -1 is the last")
        return label % width
    if names is None:
        raise UserError(
            f"dataset.label={label}: the columns have no names; give the index of one, 0 to {width - 1} (-1: the last)"
        )
    if names.count(label) > 1:
        raise UserError(f"dataset.label={label}: {names.count(label)} columns have this name; give the index of one")
    if label not in names:
        raise one_of("dataset.label", label, [n for n in names if n])
    return names.index(label)


def numbered(labels: Sequence[str], key: str, first: int) -> tuple[Tensor, list[str], str]:
    """Return the number of each label, (n,), the names of the classes by number, and a line for the user.

    Names are sorted as numbers if all are numbers, and as texts otherwise. key: the setting; first: the number of the
    first row, both for error messages. Raises UserError for a row without a label, for one class only, and where most
    labels occur once, as measurements do.
    """
    if without := [i for i, name in enumerate(labels, first) if name.strip().lower() in NO_LABEL]:
        shown = ", ".join(map(str, without[:5])) + (", ..." if len(without) > 5 else "")
        raise UserError(f"{key}: {len(without)} row(s) have no label: row(s) {shown}; label them or drop them")
    try:
        value = {name: float(name) for name in set(labels)}
        names = {v: f"{v:g}" if abs(v) < 1e6 and v == round(v) else name for name, v in sorted(value.items())}
        called = {name: names[v] for name, v in value.items()}  # 1 and 1.0 are one class
        classes = [names[v] for v in sorted(names)]
    except ValueError:
        called = {name: name for name in set(labels)}
        classes = sorted(called)
    if len(classes) == 1:
        raise UserError(f"{key}: all {len(labels)} rows have the label '{classes[0]}'; classes need two")
    if 2 * len(classes) > len(labels):
        raise UserError(f"{key}: {len(classes)} different labels in {len(labels)} rows are no classes")
    number = {name: i for i, name in enumerate(classes)}
    y = torch.tensor([number[called[name]] for name in labels])
    count = Counter(y.tolist())
    told = [f"{i} is '{name}' ({count[i]:,} rows)" for i, name in enumerate(classes[:SHOWN])]
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return y, classes, f"{key}: {len(classes)} classes, {', '.join(told)}{more}"


def chosen(classes: Sequence[str | int] | None, names: Sequence[str]) -> list[int] | None:
    """Return the numbers of the classes to keep, None for all; raise UserError for a class that there is not."""
    if classes is None:
        return None
    for c in classes:
        if str(c) not in names:
            raise one_of("dataset.classes", c, names)
    return sorted({list(names).index(str(c)) for c in classes})
