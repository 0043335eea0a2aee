"""The passages of a collection as they go into an index."""

from __future__ import annotations

from agents.models import Chunk, Collection
from agents.retrieval.build import IndexedPassage


def collection_passages(collection: Collection, *, after: int = 0, most: int | None = None) -> list[IndexedPassage]:
    """Those with a chunk id above `after`, at most so many, in order. One statement, so one moment of the database.

    A document's passages come and go together, and ids grow: what is above an index's newest one is what it lacks.
    """
    rows = (
        Chunk.objects.filter(document__collection=collection, id__gt=after)
        .order_by("document_id", "ordinal")
        .values_list(
            "id", "document_id", "document__title", "document__source", "text", "heading", "page", "start", "end", "windows",
            "kind", "place", "image_id",
        )
    )  # fmt: skip
    names = (
        "chunk_id", "document_id", "title", "source", "text", "heading", "page", "start", "end", "windows",
        "kind", "place", "image_id",
    )  # fmt: skip
    return [IndexedPassage(**dict(zip(names, row, strict=True))) for row in rows[:most].iterator(chunk_size=2000)]
