"""PDF to text, page by page."""

from __future__ import annotations

import io
import re
import unicodedata

from agents.errors import DocumentRejected
from agents.ingestion.base import Limits, Mark, ParsedDocument
from agents.ingestion.text import clean

END = b"%%EOF"
BROKEN_WORD = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_A-Z])")
BROKEN_LINE = re.compile(r"(?<=[^\s.!?:;])[ \t]*\n(?=[^\W\d_A-Z])")


def parse_pdf(name: str, data: bytes, limits: Limits) -> ParsedDocument:
    """Lines that a page only wrapped are joined again, so that passages end with sentences."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    if END not in data[-2048:].rstrip(b"\x00"):
        raise DocumentRejected(f"{name} is truncated: the PDF has no end mark. Copy or download it again.", name=name)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentRejected(f"{name} is encrypted. Save it without a password and upload that.", name=name)
        count = len(reader.pages)
        if count > limits.pages:
            raise DocumentRejected(
                f"{name} has {count:,} pages; at most {limits.pages:,} are read (ADAPTRAG_MAX_PAGES). Split it.", name=name
            )
        title = str((reader.metadata and reader.metadata.title) or "")
        pages = _pages(name, reader, limits)
    except DocumentRejected:
        raise
    except (PyPdfError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, ArithmeticError) as error:
        # pypdf meets damage with many kinds of exception.
        raise DocumentRejected(
            f"{name} is a damaged PDF ({type(error).__name__}: {str(error)[:200]}). Open it in its program and save it again.",
            name=name,
        ) from error
    text, marks = "", []
    for number, page in enumerate(pages, 1):
        marks.append(Mark(start=len(text), kind="page", level=number))
        text += f"{page}\n\n"
    if not text.strip():
        raise DocumentRejected(
            f"{name} has {count:,} pages but no text in them: they are probably scanned images. Run OCR on it first.", name=name
        )
    return ParsedDocument(text=text, markdown=False, title=_title(title), marks=tuple(marks), metadata={"pages": count})


def _pages(name: str, reader, limits: Limits) -> list[str]:
    pages, characters = [], 0
    for page in reader.pages:
        text = unicodedata.normalize("NFKC", clean(page.extract_text()))
        text = BROKEN_LINE.sub(" ", BROKEN_WORD.sub("", text)).strip()
        characters += len(text)
        if characters > limits.characters:
            raise DocumentRejected(
                f"{name} holds more than {limits.characters:,} characters (ADAPTRAG_MAX_DOCUMENT_CHARS). Split it.", name=name
            )
        pages.append(text)
    return pages


def _title(title: str) -> str:
    """The metadata's title unless a program put its file name there."""
    title = clean(title).strip()[:500]
    return "" if title.lower().startswith(("microsoft word", "untitled")) or " " not in title else title
