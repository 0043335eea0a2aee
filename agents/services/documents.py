"""Documents: adding, replacing and deleting them, one function each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.text import get_valid_filename

from adaptrag.common.ids import uuid7
from adaptrag.common.jobs import job_enqueue
from adaptrag.common.models import Job
from agents.errors import DocumentRejected, UnknownCollection
from agents.ingestion.base import DOCX, IMAGES, PDF, PPTX
from agents.ingestion.detect import detect
from agents.ingestion.parse import check_size, limits
from agents.models import Collection, Document
from agents.retrieval.files import write_whole
from agents.services.collections import collection_refresh
from agents.services.reading import file_content
from agents.services.storing import checked_source, holds, remove_files, store, upload_path

UUID_LENGTH = 32
IMAGE_SIGNS = {PDF: (b"/Image",), DOCX: (b"word/media/",), PPTX: (b"ppt/media/",)}


@dataclass(frozen=True, kw_only=True)
class DocumentResult:
    """created: the source is new; changed: its content is. job: the queue's job that reads or indexes it, if one is needed."""

    document: Document
    created: bool
    changed: bool
    job: Job | None = None


def document_add(
    *,
    collection: Collection,
    name: str,
    data: bytes,
    source: str | None = None,
    content_type: str = "",
    user: Any = None,
    index: bool = True,
) -> DocumentResult:
    """Add a file to a collection, or replace the document with the same source (by default the file's name).

    The same bytes again change nothing. A small file is searchable on return; a large one is read and indexed by a job, and
    until then its old content serves. index=False reads a file of any size here and leaves indexing to the caller.
    Raises DocumentRejected, with nothing stored, for a file that can't be read.
    """
    source = checked_source(source or name)
    digest = hashlib.sha256(data).hexdigest()
    existing = Document.objects.filter(collection=collection, source=source).first()
    if existing and (same := _same_again(existing, digest, index, user)):
        return same
    check_size(name, len(data), limits())
    found = detect(name, data, content_type)
    check_size(name, len(data), limits(found))
    file = f"documents/{collection.pk}/{uuid7().hex}-{get_valid_filename(PurePosixPath(name).name)[-100:]}"
    if index and (len(data) > settings.ADAPTRAG_INLINE_BYTES or _takes_long(found, data)):
        return _add_later(collection, source, found, data, digest, file, user)
    content = file_content(collection, name, data, found, source=source, sha256=digest, file=file)
    try:
        write_whole(upload_path(file), data)
        (stored,) = store(collection, [content])
    except BaseException:
        content.discard()
        raise
    if not stored.changed:  # another process stored the same bytes in the meantime
        content.discard()
    job = collection_refresh(collection, len(content.chunks), user=user) if index else None
    stored.document.refresh_from_db()
    return DocumentResult(document=stored.document, created=stored.created, changed=stored.changed, job=job)


def document_delete(document: Document) -> None:
    """Delete a document: its rows and its file; no search returns it from the moment that this is committed."""
    documents_delete([document])


def documents_delete(documents: Iterable[Document]) -> None:
    """Delete several at once, each collection's index being compacted once. agents.signals has what a deletion takes along."""
    collections: dict[int, Collection] = {}
    with transaction.atomic():
        for document in documents:
            collections[document.collection_id] = document.collection
            document.delete()
    for collection in collections.values():
        collection_refresh(collection)


def document_read(document_id: int) -> Document | None:
    """Read the large file that document_add put aside, and store its content: what the `ingest` job does; safe to repeat.

    None if the document was deleted. Raises DocumentRejected; the row says why, and content that it had before stays.
    """
    document = Document.objects.select_related("collection").filter(pk=document_id).first()
    if document is None or not document.incoming:
        return document
    file, digest = document.incoming.name, document.incoming_sha256
    name, data = PurePosixPath(file).name[UUID_LENGTH + 1 :], upload_path(file).read_bytes()
    try:
        content = file_content(
            document.collection, name, data, detect(name, data), source=document.source, sha256=digest, file=file
        )
    except DocumentRejected as error:
        _reject(document, error)
        raise
    try:
        (stored,) = store(document.collection, [content])
    except BaseException:
        replace(content, file="").discard()
        raise
    if not stored.changed:
        replace(content, file="").discard()
    return stored.document


def _takes_long(content_type: str, data: bytes) -> bool:
    """There are images in it, as far as its bytes tell, and reading or describing one takes seconds."""
    if not (settings.ADAPTRAG_OCR or settings.ADAPTRAG_VISION_MODEL):
        return False
    # Names of an archive's parts and dictionaries of a PDF's images are never compressed.
    return content_type in IMAGES or any(sign in data for sign in IMAGE_SIGNS.get(content_type, ()))


def _same_again(document: Document, digest: str, index: bool, user: Any) -> DocumentResult | None:
    """The result if these bytes are there, or on their way; what they still lack is set going. None if they are new."""
    job = None
    if holds(document, digest):
        if document.incoming:
            _set_incoming(document, "", "")
        if index and document.state == Document.State.PENDING:
            job = collection_refresh(document.collection, document.chunks.count(), user=user)
    elif document.incoming_sha256 == digest and index:
        job = _enqueue(document, user)
    else:
        return None
    document.refresh_from_db()
    return DocumentResult(document=document, created=False, changed=False, job=job)


def _add_later(
    collection: Collection, source: str, content_type: str, data: bytes, digest: str, file: str, user: Any
) -> DocumentResult:
    """Put a large file aside for the `ingest` job. A new source gets a row at once; an old one keeps serving what it has."""
    write_whole(upload_path(file), data)
    try:
        with transaction.atomic():
            if not Collection.objects.select_for_update().filter(pk=collection.pk).exists():
                raise UnknownCollection(f"The collection {collection.name!r} was deleted.")
            document, created = Document.objects.get_or_create(
                collection=collection, source=source, defaults={"content_type": content_type, "size": len(data)}
            )
            _set_incoming(document, file, digest)
            job = _enqueue(document, user)
    except BaseException:
        upload_path(file).unlink(missing_ok=True)
        raise
    document.refresh_from_db()
    return DocumentResult(document=document, created=created, changed=True, job=job)


def _enqueue(document: Document, user: Any) -> Job:
    return job_enqueue(
        "ingest",
        {"document": document.pk},
        title=f"Read {document.source}",
        idempotency_key=f"ingest:{document.pk}:{document.incoming_sha256}",
        user=user,
    )


def _set_incoming(document: Document, file: str, digest: str) -> None:
    with transaction.atomic():
        remove_files({document.incoming.name} - {"", None, file})
        document.incoming, document.incoming_sha256, document.error = file, digest, ""
        if not document.sha256:
            document.state = Document.State.PENDING
        document.save(update_fields=["incoming", "incoming_sha256", "error", "state", "updated_at"])


def _reject(document: Document, error: DocumentRejected) -> None:
    """Note why a waiting file can't be read. A document that never had content has failed; another goes on serving its own."""
    with transaction.atomic():
        remove_files({document.incoming.name})
        mine = Document.objects.filter(pk=document.pk, incoming=document.incoming.name)
        if document.sha256:
            mine.update(error=f"A newer file was rejected: {error.message}", incoming="", incoming_sha256="")
        else:
            mine.update(error=error.message, state=Document.State.FAILED, incoming="", incoming_sha256="")
