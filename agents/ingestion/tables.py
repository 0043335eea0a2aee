"""Delimited text and sheets to typed tables. Knows no database."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from agents.errors import DocumentRejected
from agents.ingestion.base import Column, Limits, ParsedDocument, Table
from agents.ingestion.text import decode

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_ROWS = 200
LONGEST_NAME = 60
CELL = " | "  # between cells in a passage; cells are cleaned of it, so that a row can be split again
ABSENT = frozenset({"", "-", "–", "—", "n/a", "null"})
WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d{0,17}|[1-9]\d{0,2}(?:,\d{3}){1,5})")
REAL = re.compile(r"[+-]?(?:\d{1,18}|\d{1,3}(?:,\d{3}){1,5})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|[+-]?\.\d+")
LEADING_ZERO = re.compile(r"[+-]?0\d")  # 007 names something, it counts nothing
UNIT = re.compile(r"(?P<before>[$€£¥])?\s*(?P<number>[^\s%$€£¥]+)\s*(?P<after>[%€])?")
NOT_WORD = re.compile(r"\W+")
# Words that DuckDB takes for something else where a name is expected.
RESERVED = frozenset((
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "both", "by", "case", "cast", "check",
    "collate", "column", "constraint", "create", "current_date", "default", "deferrable", "desc", "describe", "distinct",
    "do", "else", "end", "except", "false", "fetch", "for", "foreign", "from", "grant", "group", "having", "in", "initially",
    "intersect", "into", "is", "lambda", "lateral", "leading", "limit", "natural", "not", "null", "offset", "on", "only",
    "or", "order", "pivot", "placing", "primary", "qualify", "references", "returning", "select", "show", "some", "summarize",
    "symmetric", "table", "then", "to", "trailing", "true", "union", "unique", "unpivot", "user", "using", "values",
    "variadic", "when", "where", "window", "with",
))  # fmt: skip


# Reading ----------------------------------------------------------------------------------------------------------------


def parse_delimited(name: str, data: bytes, limits: Limits, delimiter: str) -> ParsedDocument:
    """A file of comma- or tab-separated values. Raises DocumentRejected."""
    text, encoding = decode(name, data)
    table = read_delimited(name, text, limits, delimiter=delimiter)
    return ParsedDocument(text="", markdown=False, metadata={"encoding": encoding}, tables=(table,))


def read_delimited(name: str, text: str, limits: Limits, *, delimiter: str = "") -> Table:
    """The table in comma-, semicolon-, tab- or bar-separated text. Raises DocumentRejected with the line that is wrong."""
    options = _dialect(text, delimiter)
    rows, numbers, cells = [], [], 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **options)
    before = csv.field_size_limit(limits.cell_characters)
    line = 1
    try:
        for row in reader:
            cells += len(row)
            _check_size(name, f"line {line}", len(row), cells, limits)
            if any(cell.strip() for cell in row):
                rows.append(row)
                numbers.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        reason = str(error)
        if "field limit" in reason:
            reason = f"a cell has more than {limits.cell_characters:,} characters (ADAPTRAG_MAX_CELL_CHARS)"
        elif "unexpected end" in reason:
            reason = "a quoted cell that begins here never ends"
        raise DocumentRejected(f"{name}, line {line}: {reason}. Correct it and upload again.", name=name, line=line) from error
    finally:
        csv.field_size_limit(before)
    return _table(name, "", rows, numbers)


def sheet_table(name: str, sheet: str, cells: Iterable[Sequence[Any]], limits: Limits, taken: int = 0) -> Table | None:
    """The table of a sheet's cells, or None where it is empty. `taken`: cells of the sheets before it."""
    rows, numbers = [], []
    for number, row in enumerate(cells, 1):
        texts = [cell_text(cell) for cell in row]
        taken += len(texts)
        _check_size(name, f"sheet {sheet!r}, row {number}", len(texts), taken, limits)
        if (longest := max(map(len, texts), default=0)) > limits.cell_characters:
            raise DocumentRejected(
                f"{name}, sheet {sheet!r}, row {number}: a cell has {longest:,} characters; at most "
                f"{limits.cell_characters:,} are read (ADAPTRAG_MAX_CELL_CHARS).",
                name=name,
            )
        if any(text.strip() for text in texts):
            rows.append(texts)
            numbers.append(number)
    if not rows:
        return None
    first = min(next(index for index, cell in enumerate(row) if cell.strip()) for row in rows)
    last = max(max(index for index, cell in enumerate(row) if cell.strip()) for row in rows)
    return _table(name, sheet, [row[first : last + 1] for row in rows], numbers)


def looks_delimited(text: str) -> bool:
    """Whether a text without a name is a table: at least three records of one width, at least two columns, a header of
    short words, and cells that are quoted or no sentences."""
    if text.count("\n") < 2:
        return False
    sample = text[:20_000]
    rows, whole = _records(sample, _dialect(sample))
    if not whole or len(text) > len(sample):
        rows = rows[:-1]  # the last may be cut
    if len(rows) < 3 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return False
    named = [cell.strip() for cell in rows[0] if cell.strip()]
    lengths = sorted(len(cell) for row in rows for cell in row)
    sentences = sum(row[-1].rstrip().endswith((".", "!", "?")) for row in rows)
    return (
        len(named) >= max(2, 0.5 * len(rows[0]))
        and max(map(len, named)) <= 80
        and not _is_data(rows[0])
        and (text.startswith('"') or (lengths[len(lengths) // 2] <= 60 and 2 * sentences < len(rows)))
    )


def _dialect(text: str, delimiter: str = "") -> dict[str, Any]:
    """Options for csv.reader under which the first records are whole and most have one width above 1."""
    sample = text[:100_000]
    best, options = (0.0, 1), {"delimiter": delimiter or ","}
    for separator in [delimiter] if delimiter else DELIMITERS:
        for quoting in ({}, {"escapechar": "\\", "doublequote": False}):
            if quoting and '\\"' not in sample:
                continue
            candidate = {"delimiter": separator, **quoting}
            widths = [len(row) for row in _records(sample, candidate)[0]]
            if not widths:
                continue
            usual = max(set(widths), key=widths.count)
            score = (widths.count(usual) / SAMPLE_ROWS if usual > 1 else 0.0, usual)
            if score > best:
                best, options = score, candidate
    return options


def _records(sample: str, options: dict[str, Any]) -> tuple[list[list[str]], bool]:
    """The first records that aren't empty, and whether they could be read to the end."""
    rows: list[list[str]] = []
    try:
        for row in islice(csv.reader(io.StringIO(sample, newline=""), strict=True, **options), SAMPLE_ROWS):
            if any(cell.strip() for cell in row):
                rows.append(row)
    except csv.Error:
        return rows, False
    return rows, True


def _is_data(row: Sequence[str]) -> bool:
    """A first row that is nothing but numbers is no header; one with an empty corner may be (years over columns)."""
    return all(_number(cell) for cell in row)


def _check_size(name: str, where: str, width: int, cells: int, limits: Limits) -> None:
    if width > limits.columns:
        raise DocumentRejected(
            f"{name}, {where}: {width:,} columns; at most {limits.columns:,} are read (ADAPTRAG_MAX_TABLE_COLUMNS).", name=name
        )
    if cells > limits.cells:
        raise DocumentRejected(
            f"{name}, {where}: more than {limits.cells:,} cells (ADAPTRAG_MAX_TABLE_CELLS). Split it or load a part of it.",
            name=name,
        )


def _table(name: str, sheet: str, rows: list[list[str]], numbers: list[int]) -> Table:
    if not rows:
        raise DocumentRejected(f"{name} has no cells in it. Upload a table with a header and rows.", name=name)
    used = max(place for row in rows for place, cell in enumerate(row) if cell.strip()) + 1
    caption = []
    if sheet:  # a title above the header stands alone in its row
        while len(rows) > 2 and used > 1 and sum(bool(cell.strip()) for cell in rows[0]) == 1:
            caption += [" ".join(cell.split()) for cell in rows[0] if cell.strip()]
            rows, numbers = rows[1:], numbers[1:]
    header = [" ".join(cell.split()) for cell in rows[0]][:used]
    header += [""] * (used - len(header) if sheet else 0)
    if _is_data(header):
        header = [""] * len(header)
    else:
        rows, numbers = rows[1:], numbers[1:]
    width = len(header)
    for row, number in zip(rows, numbers, strict=True):
        if any(cell.strip() for cell in row[width:]):
            raise DocumentRejected(
                f"{name}, line {number}: {len(row)} cells, but the header has {width}. Quote cells that hold the delimiter.",
                name=name,
                line=number,
            )
        row[:] = [*row[:width], *[""] * (width - len(row))]
    labels = [label or f"column {place}" for place, label in enumerate(header, 1)]
    names = sql_names(labels)
    columns = tuple(
        Column(name=names[place], label=label, type=kind, unit=unit)
        for place, label in enumerate(labels)
        for kind, unit in [column_type(row[place] for row in rows)]
    )
    return Table(
        name=sql_names([sheet or PurePosixPath(name.replace("\\", "/")).stem], "data")[0],
        sheet=sheet, columns=columns, rows=rows, numbers=numbers, total=len(rows), caption=" ".join(caption)[:500],
    )  # fmt: skip


def sql_names(labels: Sequence[str], fallback: str = "column") -> list[str]:
    """A distinct name for each label that SQL takes without quotes."""
    names: dict[str, None] = {}
    counts: dict[str, int] = {}  # the last number that each name got
    for label in labels:
        name = NOT_WORD.sub("_", unicodedata.normalize("NFKC", label).lower()).strip("_")[:LONGEST_NAME] or fallback
        if name[0].isdigit():
            name = f"n_{name}"
        if name in RESERVED:
            name += "_"
        distinct, count = name, counts.get(name, 1)
        while distinct in names:
            count += 1
            distinct = f"{name}_{count}"
        names[distinct], counts[name] = None, count
    return list(names)


# Types ------------------------------------------------------------------------------------------------------------------


def cell_text(value: Any) -> str:
    """A sheet's cell as text: whole floats without a fraction, dates in ISO form."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == value.time().min else value.isoformat(sep=" ", timespec="seconds")
    return value.isoformat() if isinstance(value, date) else str(value)


def column_type(values: Iterable[str]) -> tuple[str, str]:
    """(DuckDB's type, unit) that all values of a column have; VARCHAR where they differ or nothing is said."""
    present = [value.strip() for value in values if value.strip().lower() not in ABSENT]
    if not present:
        return "VARCHAR", ""
    if all(value.lower() in ("true", "false") for value in present):
        return "BOOLEAN", ""
    if all(_iso(date, value) for value in present):
        return "DATE", ""
    if all(_iso(datetime, value) for value in present):
        return "TIMESTAMP", ""
    parts = [UNIT.fullmatch(value) for value in present]
    if not all(parts):
        return "VARCHAR", ""
    units = {(part["before"] or "") + (part["after"] or "") for part in parts}
    numbers = [part["number"] for part in parts]
    if len(units) > 1 or not all(map(_number, numbers)):
        return "VARCHAR", ""
    return ("BIGINT" if all(map(WHOLE.fullmatch, numbers)) else "DOUBLE"), units.pop()


def typed_value(text: str, column: Column) -> Any:
    """The cell's value in its column's type; None where it says nothing."""
    text = text.strip()
    if column.type == "VARCHAR":
        return text or None
    if text.lower() in ABSENT:
        return None
    if column.type == "BOOLEAN":
        return text.lower() == "true"
    if column.type in ("DATE", "TIMESTAMP"):
        return (date if column.type == "DATE" else datetime).fromisoformat(text)
    number = UNIT.fullmatch(text)["number"].replace(",", "")
    return int(number) if column.type == "BIGINT" else float(number)


def _number(text: str) -> bool:
    text = text.strip()
    return bool(REAL.fullmatch(text)) and not LEADING_ZERO.match(text)


def _iso(kind: type[date], text: str) -> bool:
    if len(text) < 10 or text[4] != "-" or (kind is date and len(text) != 10):
        return False
    try:
        kind.fromisoformat(text)
    except ValueError:
        return False
    return True
