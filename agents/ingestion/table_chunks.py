"""Tables to passages: what the table is, then its rows in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from agents.ingestion.base import Column, Table
from agents.ingestion.chunking import ChunkDraft
from agents.ingestion.tables import CELL

EXAMPLES, LONGEST_EXAMPLE = 3, 40
MOST_COLUMNS = 60  # that the schema's passage describes one by one
LEAST_ROOM = 48  # tokens for rows in a passage, however long its header
LONGEST_HEADER = 500


def table_chunks(tables: Sequence[Table], capacity: int, window: int, count: Callable[[str], int]) -> list[ChunkDraft]:
    """Passages of at most `capacity` tokens (a longer row stays whole), each with the header. start/end count in the text of
    all tables' rows, one after another."""
    drafts: list[ChunkDraft] = []
    position = 0
    for table in tables:
        lines = [row_line(row) for row in table.rows]
        drafts.append(_schema(len(drafts), table, position))
        header = row_line([column.label for column in table.columns])[:LONGEST_HEADER]
        heading = " > ".join(filter(None, (table.sheet, table.caption)))[:500]
        room = max(capacity - count(header), LEAST_ROOM)
        for first, last in _groups(lines, room, count):
            text = "\n".join([header, *lines[first:last]])
            end = position + sum(len(line) + 1 for line in lines[first:last])
            drafts.append(
                ChunkDraft(
                    ordinal=len(drafts), text=text, heading=heading, page=None, start=position, end=end - 1,
                    windows=tuple(_windows(lines[first:last], len(header) + 1, window, count)),
                    kind="rows", place=_place(table, [table.numbers[first], table.numbers[last - 1]]),
                )
            )  # fmt: skip
            position = end
    return drafts


def row_line(cells: Iterable[str]) -> str:
    """A row as one line; a cell can't hold the mark between cells."""
    return CELL.join(" ".join(cell.split()).replace(CELL, " / ") for cell in cells)


def _schema(ordinal: int, table: Table, position: int) -> ChunkDraft:
    rows = f"{table.total:,} row{'s' if table.total != 1 else ''}"
    unsearched = f", of which the first {len(table.rows):,} are searched as text," if len(table.rows) < table.total else ""
    labels = ", ".join(column.label for column in table.columns)[:LONGEST_HEADER]
    first = f"{table.caption}. ".removeprefix(". ") + f"Table of {rows}{unsearched} with the columns {labels}."
    columns = [f"- {_column(table, place, column)}" for place, column in enumerate(table.columns[:MOST_COLUMNS])]
    text = "\n".join([first, *columns])
    return ChunkDraft(
        ordinal=ordinal, text=text, heading=table.sheet[:500], page=None, start=position, end=position,
        windows=((0, len(first)),), kind="schema", place=_place(table, None),
    )  # fmt: skip


def _column(table: Table, place: int, column: Column) -> str:
    examples = list(islice(_distinct(row[place] for row in table.rows), EXAMPLES))
    kind = f"{column.type}, in {column.unit}" if column.unit else column.type
    return f"{column.label} ({kind})" + (f": {'; '.join(examples)}" if examples else "")


def _distinct(cells: Iterable[str]) -> Iterator[str]:
    seen = set()
    for cell in cells:
        words = " ".join(cell.split())[:LONGEST_EXAMPLE]
        if words and words not in seen:
            seen.add(words)
            yield words


def _groups(lines: Sequence[str], room: int, count: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of rows that fit together."""
    first = tokens = 0
    for place, line in enumerate(lines):
        more = count(line)
        if place > first and tokens + more > room:
            yield first, place
            first, tokens = place, 0
        tokens += more
    if lines:
        yield first, len(lines)


def _windows(lines: Sequence[str], begin: int, window: int, count: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """The parts that get a vector each; the first has the header too."""
    position = begin
    for first, last in _groups(lines, window, count):
        end = position + sum(len(line) + 1 for line in lines[first:last]) - 1
        yield (0 if first == 0 else position), end
        position = end + 1


def _place(table: Table, rows: list[int] | None) -> dict[str, object]:
    place: dict[str, object] = {"table": table.name}
    if table.sheet:
        place["sheet"] = table.sheet
    return place | ({"rows": rows} if rows else {})
