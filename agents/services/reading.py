"""A file's bytes to a document's content: parsed, cut, its tables and images put in place."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.ids import uuid7
from agents.errors import ChatModelUnavailable, DocumentRejected
from agents.ingestion.base import CSV, IMAGES, ParsedDocument, Picture, Table
from agents.ingestion.child import TABLES_FILE
from agents.ingestion.chunking import ChunkDraft
from agents.ingestion.ocr import read_pictures
from agents.ingestion.parse import ROOT, child_environment, limits, parse
from agents.ingestion.text import clean
from agents.llm.vision import describe
from agents.models import Collection
from agents.retrieval.files import flush
from agents.services.storing import READING_PREFIX, Content, PictureContent, chunks_of, upload_path

logger = logging.getLogger(__name__)


def file_content(
    collection: Collection, name: str, data: bytes, content_type: str, *, source: str, sha256: str, file: str
) -> Content:
    """Raises DocumentRejected. The files of its tables and images lie in place; `Content.discard` takes them away again."""
    upload_path("").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=READING_PREFIX, dir=upload_path("")) as temporary:
        folder = Path(temporary)
        parsed = parse(name, data, content_type, folder=folder)
        chunks, pictures, notes = chunks_of(parsed), [], {}
        if parsed.pictures:
            pictures, drafts, notes = _pictures(name, parsed, folder, first=len(chunks))
            if not chunks and not any(picture.text or picture.description for picture in pictures):
                raise DocumentRejected(_nothing_seen(name, content_type), name=name)
            chunks += drafts
        return Content(
            source=source,
            title=parsed.title,
            content_type=content_type,
            sha256=sha256,
            size=len(data),
            chunks=chunks,
            metadata=parsed.metadata | tables_metadata(parsed) | notes,
            file=file,
            tables_file=_moved(folder / TABLES_FILE, f"tables/{collection.pk}/{uuid7().hex}.duckdb") if parsed.tables else "",
            pictures=[
                replace(picture, file=_moved(folder / picture.file, f"images/{collection.pk}/{uuid7().hex}.jpg"))
                for picture in pictures
            ],
        )


def tables_metadata(parsed: ParsedDocument) -> dict[str, Any]:
    return {"tables": [table.schema() for table in parsed.tables]} if parsed.tables else {}


def _nothing_seen(name: str, content_type: str) -> str:
    what = "the image" if content_type in IMAGES else "its images"
    if not settings.ADAPTRAG_VISION_MODEL:
        return f"{name} has no text in it that could be read. Set ADAPTRAG_VISION_MODEL to have described what {what} show."
    return f"{name} has no text in it, and {what} could not be described. The log says why."


def _pictures(
    name: str, parsed: ParsedDocument, folder: Path, *, first: int
) -> tuple[list[PictureContent], list[ChunkDraft], dict[str, Any]]:
    """Images with what was read and seen in them, a passage for each that says something, and notes of what failed."""
    texts, notes = {}, {}
    if settings.ADAPTRAG_OCR:
        texts, problem = read_pictures(folder, parsed.pictures)
        notes |= {"ocr": problem} if problem else {}
    descriptions: dict[int, str] = {}
    if settings.ADAPTRAG_VISION_MODEL:
        try:
            for picture in parsed.pictures:
                descriptions[picture.number] = describe((folder / picture.file).read_bytes(), picture.content_type)
        except ChatModelUnavailable as error:
            logger.warning("images of %s: %s", name, error.message)
            notes["vision"] = f"{len(descriptions)} of {len(parsed.pictures)} images described: {error.message}"
    contents, drafts = [], []
    for picture in parsed.pictures:
        content = PictureContent(
            number=picture.number,
            file=picture.file,
            content_type=picture.content_type,
            width=picture.width,
            height=picture.height,
            text=clean(texts.get(picture.number, "")).strip(),
            description=clean(descriptions.get(picture.number, "")).strip(),
        )
        contents.append(content)
        drafts += _passages(parsed, picture, content, first + len(drafts))
    return contents, drafts, notes


def _passages(parsed: ParsedDocument, picture: Picture, content: PictureContent, first: int) -> list[ChunkDraft]:
    """What is known of an image, cut like any text; each passage links back to the image."""
    said = [
        picture.caption,
        content.description,
        f"Text in the image: {content.text}" if content.text and (picture.caption or content.description) else content.text,
    ]
    text = "\n".join(filter(None, said))
    if not text:
        return []
    place = {"image": picture.number} | ({"slide": picture.slide} if picture.slide else {})
    heading = next((mark.text for mark in reversed(parsed.marks) if mark.kind == "heading" and mark.start <= picture.start), "")
    return [
        replace(
            draft, ordinal=first + draft.ordinal, heading=heading[:500], page=picture.page, start=picture.start,
            end=picture.start, kind="image", place=place, image=picture.number,
        )
        for draft in chunks_of(ParsedDocument(text=text, markdown=False))
    ]  # fmt: skip


def _moved(path: Path, name: str) -> str:
    """Put a finished file under its name in the uploads' folder, on disk."""
    target = upload_path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    flush(path)
    path.rename(target)
    flush(target.parent)
    return name


def tables_put(collection: Collection, documents: Sequence[Sequence[Table]]) -> list[str]:
    """A DuckDB file for the tables of each document, made by one child process; their names under MEDIA_ROOT."""
    upload_path("").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=READING_PREFIX, dir=upload_path("")) as temporary:
        paths = [Path(temporary) / f"{number}.duckdb" for number in range(len(documents))]
        lines = [
            json.dumps({"path": str(path), "tables": [asdict(table) for table in tables]})
            for path, tables in zip(paths, documents, strict=True)
        ]
        bounds = limits(CSV)
        command = [sys.executable, "-m", "agents.ingestion.tables_file", str(bounds.memory_bytes), str(bounds.seconds)]
        done = subprocess.run(
            command, input="\n".join(lines).encode(), capture_output=True, cwd=ROOT, env=child_environment(), check=False
        )
        if done.returncode:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            raise DocumentRejected(f"The tables of {len(documents):,} documents could not be stored: {reason[:300]}")
        return [_moved(path, f"tables/{collection.pk}/{uuid7().hex}.duckdb") for path in paths]
