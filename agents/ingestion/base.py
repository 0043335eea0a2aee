"""What parsing a file gives, and what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MARKDOWN = "text/markdown"
TEXT = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Above any of these a file is rejected. `seconds` and `memory_bytes` bound the child process that parses it."""

    bytes: int
    pages: int
    expanded_bytes: int
    characters: int
    seconds: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a heading (level 1..6 and its words) or a page (its number as `level`) starts in the text, in characters."""

    start: int
    kind: str  # heading or page
    level: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """The text of a file; `markdown`: split it by Markdown's structure rather than as plain text. `title` may be empty."""

    text: str
    markdown: bool
    title: str = ""
    marks: tuple[Mark, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ParsedDocument:
        return cls(**{**values, "marks": tuple(Mark(**mark) for mark in values["marks"])})
