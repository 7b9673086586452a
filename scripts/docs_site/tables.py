"""Read and write the tables of Markdown pages, so that a component's page shows its row without a copy."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Table(NamedTuple):
    """A table below a heading. header: its columns; rows: their cells."""

    heading: str
    header: list[str]
    rows: list[list[str]]

    def named(self) -> "Table":
        """Return the table without its first column, which names the row."""
        return Table(self.heading, self.header[1:], [row[1:] for row in self.rows])

    def has(self, columns: Iterable[str]) -> bool:
        """Return whether there is a column for each of these beginnings."""
        return all(any(title.startswith(name) for title in self.header) for name in columns)

    def chosen(self, columns: Iterable[str]) -> list[tuple[str, str]]:
        """Return the cells of the first row under these columns; a column is found by how its title begins."""
        titles = [next(i for i, title in enumerate(self.header) if title.startswith(name)) for name in columns]
        return [(self.header[i], self.rows[0][i]) for i in titles]


def tables(text: str) -> Iterator[Table]:
    """Yield the tables of a Markdown page with the headings above them."""
    heading, block = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif block:
            yield Table(heading, block[0], block[2:])
            block = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def row_of(table: Table, name: str) -> Table:
    """Return the table with only the rows that `name` begins."""
    return Table(table.heading, table.header, [row for row in table.rows if row[0].strip("`") == name])


def written(table: Table) -> str:
    """Write a table as Markdown."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
