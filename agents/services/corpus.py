"""Adding a BEIR folder, and keeping a collection in step with one."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from adaptrag.common.errors import InvalidInput
from agents.errors import DocumentRejected
from agents.ingestion.base import CSV, TEXT, ParsedDocument
from agents.ingestion.beir import BeirPassage, corpus_file, read_corpus
from agents.ingestion.parse import limits
from agents.ingestion.tables import looks_delimited, read_delimited, sql_names
from agents.models import Collection
from agents.retrieval.build import Progress
from agents.services.collections import collection_get_or_create, collection_index
from agents.services.derived import derived_refresh
from agents.services.documents import documents_delete
from agents.services.reading import tables_metadata, tables_put
from agents.services.storing import Content, Stored, checked_source, chunks_of, holds, store

logger = logging.getLogger(__name__)

BATCH = 200  # documents a transaction: the write lock is held for a tenth of a second


@dataclass(frozen=True, kw_only=True)
class CorpusResult:
    documents: int
    created: int
    changed: int


def corpus_add(*, collection: Collection, folder: Path, progress: Progress) -> CorpusResult:
    """Add the passages of a BEIR folder as documents, without indexing them; each is stored whole or not at all.

    source: "<folder's name>/<_id>"; metadata: {"beir_id", "dataset"}. Raises DocumentRejected at a line that can't be read;
    what stands before it stays, and a second run goes on from there.
    """
    path = corpus_file(folder)
    if path is None:
        raise InvalidInput(f"{folder} has no corpus.jsonl or corpus.jsonl.gz.")
    dataset, passages = folder.resolve().name, read_corpus(path)
    documents = created = changed = 0
    while batch := list(islice(passages, BATCH)):
        # The same id twice: the later one counts, as for any source.
        stored = _store(collection, dataset, {passage.id: passage for passage in batch})
        documents += len(stored)
        created += sum(one.created for one in stored)
        changed += sum(one.changed for one in stored)
        progress(0.0, f"{dataset}: {documents:,} passages read")
    return CorpusResult(documents=documents, created=created, changed=changed)


def beir_collection(folder: Path, *, progress: Progress | None = None) -> Collection:
    """The collection named after a BEIR folder, in step with its passages, indexed for all agents that answer now. Unchanged
    passages are neither cut nor embedded again; passages that left the folder go, other documents stay.
    Raises InvalidInput, DocumentRejected.
    """
    report = progress or (lambda fraction, message: None)
    path = corpus_file(folder)
    if path is None:
        raise InvalidInput(f"{folder} has no corpus.jsonl or corpus.jsonl.gz.")
    dataset = folder.resolve().name
    collection = collection_get_or_create(re.sub(r"[^a-z0-9_-]+", "-", dataset.lower()).strip("-_")[:64] or "beir")
    wanted = {f"{dataset}/{passage.id}": _digest(passage) for passage in read_corpus(path)}
    there = {document.source: document for document in collection.documents.filter(metadata__dataset=dataset)}
    documents_delete([document for source, document in there.items() if source not in wanted])
    if not all(source in there and holds(there[source], sha256) for source, sha256 in wanted.items()):
        corpus_add(collection=collection, folder=folder, progress=report)
    collection_index(collection, report)
    derived_refresh(collection, report)
    collection.refresh_from_db()
    return collection


def _digest(passage: BeirPassage) -> str:
    return hashlib.sha256(f"{passage.title}\n{passage.text}".encode()).hexdigest()


def _store(collection: Collection, dataset: str, passages: Mapping[str, BeirPassage]) -> list[Stored]:
    """Store a batch. Passages that are tables get their DuckDB files first, unless they are there unchanged."""
    documents = {checked_source(f"{dataset}/{passage.id}"): parsed(passage) for passage in passages.values()}
    contents = {
        source: _content(dataset, passage, source, document)
        for passage, (source, document) in zip(passages.values(), documents.items(), strict=True)
    }
    there = {document.source: document for document in collection.documents.filter(source__in=list(documents))}
    fresh = [
        source
        for source, document in documents.items()
        if document.tables and not (source in there and holds(there[source], contents[source].sha256))
    ]
    if fresh:
        files = tables_put(collection, [documents[source].tables for source in fresh])
        contents |= {source: replace(contents[source], tables_file=file) for source, file in zip(fresh, files, strict=True)}
    try:
        stored = store(collection, list(contents.values()))
    except BaseException:
        for content in contents.values():
            content.discard()
        raise
    for one in stored:
        if not one.changed:  # another process stored it in the meantime
            contents[one.document.source].discard()
    return stored


def parsed(passage: BeirPassage) -> ParsedDocument:
    """A passage's text as a table where its content is one (comma-separated records under a header), else as text."""
    if looks_delimited(passage.text):
        try:
            table = read_delimited(f"{passage.id}", passage.text, limits(CSV))
        except DocumentRejected as error:
            logger.warning("passage %s looks like a table and is read as text: %s", passage.id, error.message)
        else:
            table = replace(table, name=sql_names([passage.title or passage.id], "data")[0])
            return ParsedDocument(text="", markdown=False, title=passage.title, tables=(table,))
    return ParsedDocument(text=passage.text, markdown=False, title=passage.title)


def _content(dataset: str, passage: BeirPassage, source: str, document: ParsedDocument) -> Content:
    data = f"{passage.title}\n{passage.text}".encode()
    return Content(
        source=source,
        title=passage.title,
        content_type=CSV if document.tables else TEXT,
        sha256=_digest(passage),
        size=len(data),
        chunks=chunks_of(document),
        metadata={"beir_id": passage.id, "dataset": dataset} | tables_metadata(document),
    )
