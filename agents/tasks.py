"""Jobs of documents: `ingest` reads a large upload and indexes it, `index` indexes a collection, `derive` makes what some
strategies search beside passages."""

from __future__ import annotations

from typing import Any

from adaptrag.common.jobs import JobContext, register
from agents.errors import NothingIngested, UnknownCollection
from agents.models import Collection
from agents.services.collections import collection_index
from agents.services.derived import derived_refresh
from agents.services.documents import document_read


def ingest(context: JobContext) -> dict[str, Any]:
    context.progress(0.0, "reading the file")
    document = document_read(context.payload["document"])
    if document is None:
        return {"document": None, "note": "The document was deleted before it was read."}
    build = collection_index(document.collection, context.progress)
    derived_refresh(document.collection, context.progress)
    return {"document": document.pk, "chunks": document.chunks.count(), "build": build.pk}


def index(context: JobContext) -> dict[str, Any]:
    collection = Collection.objects.filter(pk=context.payload["collection"]).first()
    if collection is None:
        raise UnknownCollection("The collection was deleted before it was indexed.")
    try:
        build = collection_index(collection, context.progress, force=context.payload.get("force", False))
    except NothingIngested as error:
        return {"build": None, "note": error.message}
    derived_refresh(collection, context.progress)
    return {"build": build.pk, "chunks": build.chunks}


def derive(context: JobContext) -> dict[str, Any]:
    collection = Collection.objects.filter(pk=context.payload["collection"]).first()
    if collection is None:
        raise UnknownCollection("The collection was deleted before its derived indexes were made.")
    return {"made": derived_refresh(collection, context.progress, context.payload["kinds"])}


def register_jobs() -> None:
    """Called when the app is ready, so that web, worker and command know the same kinds."""
    register("ingest", ingest, heavy=True)
    register("index", index, heavy=True)
    register("derive", derive, heavy=True)
