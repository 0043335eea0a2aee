"""What parsing a file gives, and what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MARKDOWN = "text/markdown"
TEXT = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSONL = "application/jsonl"
PNG = "image/png"
JPEG = "image/jpeg"
WEBP = "image/webp"
IMAGES = (PNG, JPEG, WEBP)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Above any of these a file is rejected. `seconds` and `memory_bytes` bound the child process that parses it.

    pages: also slides and sheets. records: of JSON lines. expanded_bytes: what an archive unpacks to. columns, cells,
    cell_characters: of tables. pixels: of one image; images: that are read from one document, the others are left out.
    indexed_rows: rows of a table that become passages; all can be queried.
    """

    bytes: int
    pages: int
    expanded_bytes: int
    characters: int
    seconds: int
    memory_bytes: int
    records: int = 100_000
    columns: int = 1_000
    cells: int = 5_000_000
    cell_characters: int = 32_767
    indexed_rows: int = 20_000
    pixels: int = 50_000_000
    images: int = 30


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a heading (level 1..6 and its words), or a page, slide or line (its number as `level`) starts in the text."""

    start: int
    kind: str  # heading, page, slide or line
    level: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """name: how SQL calls it; label: as the header has it; type: DuckDB's; unit: %, $, €, £ or ¥ that its numbers lost."""

    name: str
    label: str
    type: str
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """rows: cells as text, as many as `columns`; numbers: the line of the file, or row of the sheet, where each begins.

    total: of the rows in the table, of which `rows` may hold only the first.
    """

    name: str
    sheet: str
    columns: tuple[Column, ...]
    rows: list[list[str]]
    numbers: list[int]
    total: int
    caption: str = ""  # what stands above the header

    def schema(self) -> dict[str, Any]:
        """What a document's metadata say of it."""
        return {
            "name": self.name,
            "sheet": self.sheet,
            "rows": self.total,
            "searchable_rows": len(self.rows),
            "columns": [asdict(column) for column in self.columns],
        }


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that was found. file: its name in the folder that parsing was given; start: where it stands in the text."""

    number: int
    file: str
    content_type: str
    width: int
    height: int
    start: int = 0
    page: int | None = None
    slide: int | None = None
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """The text of a file; `markdown`: split it by Markdown's structure rather than as plain text. `title` may be empty."""

    text: str
    markdown: bool
    title: str = ""
    marks: tuple[Mark, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ParsedDocument:
        return cls(
            **{
                **values,
                "marks": tuple(Mark(**mark) for mark in values["marks"]),
                "tables": tuple(
                    Table(**{**table, "columns": tuple(Column(**column) for column in table["columns"])})
                    for table in values["tables"]
                ),
                "pictures": tuple(Picture(**picture) for picture in values["pictures"]),
            }
        )
