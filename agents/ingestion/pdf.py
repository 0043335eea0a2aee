"""PDF to text, page by page."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from agents.errors import DocumentRejected
from agents.ingestion.base import Limits, Mark, ParsedDocument
from agents.ingestion.pictures import SHORTEST_SIDE, PictureFolder
from agents.ingestion.text import clean

END = b"%%EOF"
BROKEN_WORD = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_A-Z])")
BROKEN_LINE = re.compile(r"(?<=[^\s.!?:;])[ \t]*\n(?=[^\W\d_A-Z])")


def parse_pdf(name: str, data: bytes, limits: Limits, folder: Path | None) -> ParsedDocument:
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
        pictures = PictureFolder(folder, limits)
        starts = [0, *accumulate(len(page) + 2 for page in pages)]
        for number, page in enumerate(reader.pages, 1):
            for image in _images(page, limits, pictures):
                pictures.add(image, start=starts[number - 1], page=number)
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
    if not text.strip() and not pictures.pictures:
        raise DocumentRejected(
            f"{name} has {count:,} pages but no text in them, and no image that could be read: they are probably scanned "
            "images. Run OCR on it first.",
            name=name,
        )
    return ParsedDocument(
        text=text,
        markdown=False,
        title=_title(title),
        marks=tuple(marks),
        metadata={"pages": count, **pictures.metadata()},
        pictures=tuple(pictures.pictures),
    )


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


def _images(page, limits: Limits, pictures: PictureFolder) -> Iterator[bytes]:
    """The images that stand on a page by themselves, each unpacked only after a look at the size that it declares."""
    from pypdf.errors import PyPdfError
    from pypdf.generic import IndirectObject

    resources = page.get("/Resources")
    found = resources.get_object().get("/XObject") if resources is not None else None
    for name, reference in (found.get_object() if found is not None else {}).items():
        thing = reference.get_object()
        if thing.get("/Subtype") != "/Image":
            continue
        identity = (reference.idnum, reference.generation) if isinstance(reference, IndirectObject) else id(thing)
        width, height = int(thing.get("/Width", 0)), int(thing.get("/Height", 0))
        if identity in pictures.met or min(width, height) < SHORTEST_SIDE:
            continue
        pictures.met.add(identity)
        if width * height > limits.pixels or len(pictures.pictures) >= limits.images:
            pictures.left_out += 1
            continue
        try:
            yield page.images[name].data
        except (PyPdfError, ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, OSError):
            pictures.left_out += 1  # told in the document's metadata; its text is worth having without


def _title(title: str) -> str:
    """The metadata's title unless a program put its file name there."""
    title = clean(title).strip()[:500]
    return "" if title.lower().startswith(("microsoft word", "untitled")) or " " not in title else title
