"""Adding a BEIR folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adaptrag.common.errors import InvalidInput
from agents.ingestion.base import TEXT, ParsedDocument
from agents.ingestion.beir import BeirPassage, corpus_file, read_corpus
from agents.models import Collection
from agents.retrieval.build import Progress
from agents.services.storing import Content, checked_source, chunks_of, store

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
        contents = {passage.id: _content(dataset, passage) for passage in batch}
        stored = store(collection, list(contents.values()))
        documents += len(stored)
        created += sum(one.created for one in stored)
        changed += sum(one.changed for one in stored)
        progress(0.0, f"{dataset}: {documents:,} passages read")
    return CorpusResult(documents=documents, created=created, changed=changed)


def _content(dataset: str, passage: BeirPassage) -> Content:
    data = f"{passage.title}\n{passage.text}".encode()
    return Content(
        source=checked_source(f"{dataset}/{passage.id}"),
        title=passage.title,
        content_type=TEXT,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        chunks=chunks_of(ParsedDocument(text=passage.text, markdown=False, title=passage.title)),
        metadata={"beir_id": passage.id, "dataset": dataset},
    )
