"""Which type a file has: decided by its content, then held against its name."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import PurePosixPath

from agents.errors import DocumentRejected
from agents.ingestion.archives import MOST_PARTS
from agents.ingestion.base import CSV, DOCX, HTML, JPEG, JSONL, MARKDOWN, PDF, PNG, PPTX, TEXT, TSV, WEBP, XLSX
from agents.ingestion.tables import looks_delimited
from agents.ingestion.text import decode

SUFFIXES = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".txt": TEXT, ".text": TEXT, ".html": HTML, ".htm": HTML, ".pdf": PDF,
    ".docx": DOCX, ".pptx": PPTX, ".xlsx": XLSX, ".xlsm": XLSX, ".csv": CSV, ".tsv": TSV, ".tab": TSV, ".jsonl": JSONL,
    ".ndjson": JSONL, ".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP,
}  # fmt: skip
NAMES = {
    MARKDOWN: "Markdown", TEXT: "plain text", HTML: "HTML", PDF: "a PDF", DOCX: "a Word document (.docx)",
    PPTX: "a PowerPoint presentation (.pptx)", XLSX: "an Excel workbook (.xlsx)", CSV: "comma-separated values",
    TSV: "tab-separated values", JSONL: "JSON lines", PNG: "a PNG image", JPEG: "a JPEG image", WEBP: "a WebP image",
}  # fmt: skip
SUPPORTED = (
    "Markdown (.md), plain text (.txt), HTML (.html), PDF (.pdf), Word (.docx), PowerPoint (.pptx), Excel (.xlsx), "
    "tables (.csv, .tsv), JSON lines (.jsonl), images (.png, .jpg, .webp)"
)
WORDS = (MARKDOWN, TEXT, CSV, TSV, JSONL)  # types whose content is text that any of them could hold
SIGNATURES = {PNG: b"\x89PNG\r\n\x1a\n", JPEG: b"\xff\xd8\xff"}
# First bytes of what people upload by mistake. Only named, never opened.
FOREIGN = {
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF recording",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"MZ": "a Windows program",
    b"SQLite format 3\x00": "an SQLite database",
    b"{\\rtf": "an RTF document",
}
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
DIRECTORY_ENTRY = b"PK\x01\x02"  # before each part's name in a zip's directory
OFFICE_PARTS = {"word/document.xml": DOCX, "xl/workbook.xml": XLSX, "ppt/presentation.xml": PPTX}
HTML_TAG = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.I)
TAG = re.compile(r"<(?:p|div|h[1-6]|a|span|table|ul|ol|br|body|title|meta|article|section|main)\b[^<>]*>", re.I)


def detect(name: str, data: bytes, content_type: str = "") -> str:
    """The type of `data`, one of agents.ingestion.base. `content_type` helps only where the name has no suffix.

    Raises DocumentRejected for an empty file, a type that isn't read, or content that contradicts the name.
    """
    if not data.strip(b" \t\r\n\x00"):
        raise DocumentRejected(f"{name} is empty. Upload a file that holds text.", name=name)
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix and suffix not in SUFFIXES and not _is_binary_document(data):
        raise DocumentRejected(f"{name}: files of the type {suffix} aren't read. Supported: {SUPPORTED}.", name=name)
    named = SUFFIXES.get(suffix) or (content_type.partition(";")[0].strip().lower() if not suffix else "")
    found = _by_content(name, data, named)
    if suffix and SUFFIXES.get(suffix) != found:
        right = next(key for key, value in SUFFIXES.items() if value == found)
        raise DocumentRejected(
            f"{name} is named {suffix} but holds {NAMES[found]}. Check that it is the right file, and rename it to {right}.",
            name=name,
            found=found,
        )
    return found


def _is_binary_document(data: bytes) -> bool:
    return data[:1024].find(b"%PDF-") >= 0 or data.startswith(b"PK\x03\x04") or bool(_image_kind(data))


def _image_kind(data: bytes) -> str:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return next((kind for kind, start in SIGNATURES.items() if data.startswith(start)), "")


def _by_content(name: str, data: bytes, named: str) -> str:
    if data[:1024].find(b"%PDF-") >= 0:
        return PDF
    if data.startswith(b"PK"):
        return _zip_kind(name, data, named)
    if kind := _image_kind(data):
        return kind
    if data.startswith(OLE):
        raise DocumentRejected(
            f"{name} is an Office file in the old binary format, or one with a password. Save it as .docx, .pptx or .xlsx, "
            "without a password.",
            name=name,
        )
    for start, what in FOREIGN.items():
        if data.startswith(start):
            raise DocumentRejected(f"{name} is {what}, which isn't read. Supported: {SUPPORTED}.", name=name)
    if named and named in NAMES and named not in (*WORDS, HTML):
        raise DocumentRejected(
            f"{name} is named as {NAMES[named]} but doesn't start like one: it is damaged or another type of file. "
            "Open it in its program and save it again.",
            name=name,
        )
    text, _ = decode(name, data)
    if _starts_as_html(text[:20_000]):
        return HTML
    if named == HTML:
        return HTML if TAG.search(text[:200_000]) else TEXT
    if named in WORDS:
        return named
    if text.lstrip().startswith("{") and _is_object(text.strip().split("\n", 1)[0]):
        return JSONL
    return (TSV if "\t" in text.split("\n", 1)[0] else CSV) if looks_delimited(text) else TEXT


def _starts_as_html(text: str) -> bool:
    """Whether a page's first tag is what follows an XML declaration and comments. A scan: a pattern with both lazy comments
    and spaces between them takes exponential time on a row of them."""
    text = text.lstrip()
    start = text.find(">") + 1 if text[:5].lower() == "<?xml" else 0
    while text[start : start + 1].isspace() or text.startswith("<!--", start):
        if not text.startswith("<!--", start):
            start += 1
        elif (start := text.find("-->", start + 4) + 3) < 3:
            return False
    return bool(HTML_TAG.match(text, start))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _zip_kind(name: str, data: bytes, named: str) -> str:
    if (count := data.count(DIRECTORY_ENTRY)) > MOST_PARTS:
        raise DocumentRejected(
            f"{name} is an archive of {count:,} parts; at most {MOST_PARTS:,} are read. Split the document.", name=name
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        what = NAMES[named].partition(" (")[0] if named in OFFICE_PARTS.values() else "a zip archive"
        raise DocumentRejected(
            f"{name} is {what} that is truncated or damaged ({error}). Copy or download it again.", name=name
        ) from error
    for part, kind in OFFICE_PARTS.items():
        if part in parts:
            return kind
    what = "an Excel workbook in the binary format" if "xl/workbook.bin" in parts else "a zip archive without a document in it"
    raise DocumentRejected(f"{name} is {what}, which isn't read. Supported: {SUPPORTED}.", name=name)
