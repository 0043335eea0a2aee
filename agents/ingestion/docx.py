"""Word documents to text in Markdown's form."""

from __future__ import annotations

import io
import zipfile
import zlib

from agents.errors import DocumentRejected
from agents.ingestion.base import Limits, ParsedDocument
from agents.ingestion.text import clean, markdown_document

MOST_PARTS = 10_000
PIECE = 1 << 20


def parse_docx(name: str, data: bytes, limits: Limits) -> ParsedDocument:
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table
    from lxml.etree import LxmlError

    check_expansion(name, data, limits)
    try:
        document = Document(io.BytesIO(data))
        blocks, title = [], document.core_properties.title or ""
        for block in document.iter_inner_content():
            blocks.append(_table(block) if isinstance(block, Table) else _paragraph(block))
    except (OpcError, LxmlError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DocumentRejected(
            f"{name} is a damaged Word document ({type(error).__name__}: {str(error)[:200]}). Open it in Word, save it again.",
            name=name,
        ) from error
    return markdown_document(clean("".join(blocks)).strip("\n"), title=clean(title).strip()[:500])


def check_expansion(name: str, data: bytes, limits: Limits) -> None:
    """Refuse a zip bomb: first by the sizes that the directory declares, then by expanding with a cap, piece by piece."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            declared = sum(part.file_size for part in parts)
            if len(parts) > MOST_PARTS or declared > limits.expanded_bytes:
                raise _bomb(name, f"{declared:,} bytes in {len(parts):,} parts", limits)
            if any(part.flag_bits & 1 for part in parts):
                raise DocumentRejected(f"{name} is encrypted. Save it without a password and upload that.", name=name)
            expanded = 0
            for part in parts:
                with archive.open(part) as handle:
                    while piece := handle.read(PIECE):
                        expanded += len(piece)
                        if expanded > limits.expanded_bytes:
                            raise _bomb(name, f"more than {expanded:,} bytes", limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise DocumentRejected(f"{name} is truncated or damaged ({error}). Copy or download it again.", name=name) from error


def _bomb(name: str, size: str, limits: Limits) -> DocumentRejected:
    return DocumentRejected(
        f"{name} expands to {size}; at most {limits.expanded_bytes:,} bytes are read (ADAPTRAG_MAX_EXPANDED_BYTES).", name=name
    )


def _paragraph(paragraph) -> str:
    text, style = paragraph.text.strip(), (paragraph.style and paragraph.style.name) or ""
    if not text:
        return ""
    if style == "Title":
        return f"# {_one_line(text)}\n\n"
    level = style.removeprefix("Heading ")
    if style.startswith("Heading ") and level.isdigit():
        return f"{'#' * min(6, int(level))} {_one_line(text)}\n\n"
    return f"- {text}\n" if style.startswith("List") else f"{text}\n\n"


def _table(table) -> str:
    rows = []
    for row in table.rows:
        # A merged cell appears once for each column that it spans.
        cells = list(dict.fromkeys((id(cell._tc), _one_line(cell.text)) for cell in row.cells))
        rows.append(" | ".join(text for _, text in cells))
    return "\n".join(rows) + "\n\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
