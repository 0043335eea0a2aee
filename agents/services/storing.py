"""Storing what was read: rows of documents and chunks in one transaction, files that are there whole or not at all."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from adaptrag.common.errors import InvalidInput
from agents.errors import UnknownCollection
from agents.ingestion.base import ParsedDocument
from agents.ingestion.chunking import ChunkDraft, split, token_counter
from agents.ingestion.table_chunks import table_chunks
from agents.ingestion.text import clean
from agents.models import Chunk, Collection, Document, DocumentImage
from agents.retrieval.embedding import token_count

LONGEST_SOURCE = 1000
READING_PREFIX = ".reading-"  # of the folders in which files are made, beside their places
UPLOAD_FOLDERS = ("documents", "tables", "images")  # each with a folder a collection, under MEDIA_ROOT
ORPHAN_AGE = 24 * 3600  # seconds; a younger file may belong to an upload that is under way


@dataclass(frozen=True, kw_only=True)
class PictureContent:
    """An image of a document. file: its name under MEDIA_ROOT."""

    number: int
    file: str
    content_type: str
    width: int
    height: int
    text: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Content:
    """A document's content, read and cut. file, tables_file: their names under MEDIA_ROOT, empty where there is none."""

    source: str
    title: str
    content_type: str
    sha256: str
    size: int
    chunks: Sequence[ChunkDraft]
    metadata: dict[str, Any]
    file: str = ""
    tables_file: str = ""
    pictures: Sequence[PictureContent] = ()

    def discard(self) -> None:
        """Remove the files that were made for it: it wasn't stored."""
        for name in filter(None, (self.file, self.tables_file, *(picture.file for picture in self.pictures))):
            upload_path(name).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Stored:
    document: Document
    created: bool
    changed: bool


def checked_source(source: str) -> str:
    """Raises InvalidInput for a source that can't identify a document."""
    source = clean(source).strip()
    if not 0 < len(source) <= LONGEST_SOURCE:
        raise InvalidInput(f"A document's source has 1 to {LONGEST_SOURCE:,} characters, not {len(source):,}.")
    return source


def cut() -> str:
    """How texts are cut now; documents note how they were, so that adding one again after a change cuts it anew."""
    return f"{settings.ADAPTRAG_CHUNK_TOKENS}/{settings.ADAPTRAG_WINDOW_TOKENS} tokens"


def holds(document: Document, sha256: str) -> bool:
    """The document has these bytes, cut as they would be now."""
    return document.sha256 == sha256 and document.metadata.get("cut") == cut()


def chunks_of(parsed: ParsedDocument) -> list[ChunkDraft]:
    """Passages of the text, then those of the tables."""
    sizes = (settings.ADAPTRAG_CHUNK_TOKENS, settings.ADAPTRAG_WINDOW_TOKENS, _counter())
    drafts = split(parsed, *sizes) if parsed.text.strip() else []
    return drafts + [replace(draft, ordinal=len(drafts) + draft.ordinal) for draft in table_chunks(parsed.tables, *sizes)]


@functools.cache
def _counter() -> Callable[..., int]:
    return token_counter(token_count())


def store(collection: Collection, contents: Sequence[Content]) -> list[Stored]:
    """Make or replace the documents with these sources, all in one transaction; equal content is left alone.

    Indexes still serve what they hold: the new passages wait (state pending) for the next build. Files of replaced content are
    removed once it is committed.
    """
    with transaction.atomic():
        if not Collection.objects.select_for_update().filter(pk=collection.pk).exists():
            raise UnknownCollection(f"The collection {collection.name!r} was deleted.")
        sources = [content.source for content in contents]
        there = {document.source: document for document in collection.documents.filter(source__in=sources)}
        stored = []
        for content in contents:
            document = there.get(content.source)
            stored.append(
                Stored(
                    document=document or Document(collection=collection, source=content.source),
                    created=document is None,
                    changed=document is None or not holds(document, content.sha256),
                )
            )
        fresh = [(one.document, content) for one, content in zip(stored, contents, strict=True) if one.changed]
        if fresh:
            content_changed(collection.pk)
            _write(fresh)
    return stored


def _write(fresh: Sequence[tuple[Document, Content]]) -> None:
    replaced = [document for document, _ in fresh if document.pk]
    unused = {file.name for one in replaced for file in (one.file, one.incoming, one.tables_file) if file}
    for document, content in fresh:
        document.title, document.content_type = content.title, content.content_type
        document.metadata = content.metadata | {"cut": cut()}
        document.file, document.sha256, document.size = content.file, content.sha256, content.size
        document.tables_file = content.tables_file
        document.state, document.error, document.incoming, document.incoming_sha256 = Document.State.PENDING, "", "", ""
        document.updated_at = timezone.now()
    if replaced:
        Chunk.objects.filter(document__in=replaced).delete()
        DocumentImage.objects.filter(document__in=replaced).delete()
        fields = (
            "title",
            "content_type",
            "metadata",
            "file",
            "tables_file",
            "sha256",
            "size",
            "state",
            "error",
            "incoming",
            "incoming_sha256",
        )
        Document.objects.bulk_update(replaced, [*fields, "updated_at"])
    Document.objects.bulk_create([document for document, _ in fresh if not document.pk])
    images = DocumentImage.objects.bulk_create(
        DocumentImage(document=document, **asdict(picture)) for document, content in fresh for picture in content.pictures
    )
    by_number = {(image.document_id, image.number): image for image in images}
    Chunk.objects.bulk_create(
        _chunk(document, draft, by_number.get((document.pk, draft.image)))
        for document, content in fresh
        for draft in content.chunks
    )
    remove_files(unused - {content.file for _, content in fresh})


def _chunk(document: Document, draft: ChunkDraft, image: DocumentImage | None) -> Chunk:
    return Chunk(
        document=document,
        ordinal=draft.ordinal,
        text=draft.text,
        heading=draft.heading,
        page=draft.page,
        start=draft.start,
        end=draft.end,
        windows=draft.windows,
        kind=draft.kind,
        place=draft.place,
        image=image,
    )


def content_changed(collection_id: int) -> None:
    """Count a change of a collection's passages in the caller's transaction; holds the row's lock until its end."""
    Collection.objects.filter(pk=collection_id).update(content_version=F("content_version") + 1)


def upload_path(file: str) -> Path:
    return Path(settings.MEDIA_ROOT) / file


def sweep_uploads(collection: Collection) -> None:
    """Remove files that a process put there and died before it stored their document."""
    rows = collection.documents.values_list("file", "incoming", "tables_file")
    images = DocumentImage.objects.filter(document__collection=collection).values_list("file")
    named = {PurePosixPath(name).name for names in chain(rows, images) for name in names if name}
    for kind in UPLOAD_FOLDERS:
        folder = upload_path(f"{kind}/{collection.pk}")
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in named and path.stat().st_mtime < time.time() - ORPHAN_AGE:
                path.unlink(missing_ok=True)
    for folder in upload_path("").glob(f"{READING_PREFIX}*"):
        if folder.stat().st_mtime < time.time() - ORPHAN_AGE:
            shutil.rmtree(folder, ignore_errors=True)


def remove_files(names: set[str]) -> None:
    """Remove uploads once the surrounding transaction is committed."""
    for name in names:
        transaction.on_commit(functools.partial(upload_path(name).unlink, missing_ok=True), robust=True)
