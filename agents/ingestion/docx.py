"""Word documents to text in Markdown's form."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.errors import DocumentRejected
from agents.ingestion.archives import check_expansion
from agents.ingestion.base import Limits, ParsedDocument
from agents.ingestion.pictures import PictureFolder
from agents.ingestion.text import clean, markdown_document


def parse_docx(name: str, data: bytes, limits: Limits, folder: Path | None) -> ParsedDocument:
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table
    from lxml.etree import LxmlError

    check_expansion(name, data, limits)
    pictures, text = PictureFolder(folder, limits), ""
    try:
        document = Document(io.BytesIO(data))
        title = document.core_properties.title or ""
        for block in document.iter_inner_content():
            for blob, caption in _images(document, block._element):
                pictures.add(blob, start=len(text), caption=caption)
            text += clean(_table(block) if isinstance(block, Table) else _paragraph(block))
    except (OpcError, LxmlError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DocumentRejected(
            f"{name} is a damaged Word document ({type(error).__name__}: {str(error)[:200]}). Open it in Word, save it again.",
            name=name,
        ) from error
    parsed = markdown_document(text.rstrip("\n"), title=clean(title).strip()[:500], metadata=pictures.metadata())
    return replace(parsed, pictures=tuple(pictures.pictures))


def _images(document: Any, element: Any) -> Iterator[tuple[bytes, str]]:
    """(bytes, alternative text) of the images in a block that are stored in the file, not linked."""
    for drawing in element.xpath(".//w:drawing"):
        caption = " ".join(" ".join(drawing.xpath(".//wp:docPr/@descr")).split())[:500]
        for identifier in drawing.xpath(".//a:blip/@r:embed"):
            relation = document.part.rels.get(identifier)
            if relation is not None and not relation.is_external:
                yield relation.target_part.blob, caption


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
