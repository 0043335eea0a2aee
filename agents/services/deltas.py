"""Adding to a large index without building it anew: what a second, small segment has to hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from django.conf import settings

from adaptrag.common.errors import Unavailable
from agents.models import Collection, IndexBuild
from agents.retrieval.build import Base, IndexedPassage
from agents.retrieval.embedding import embedder
from agents.retrieval.segment import Segment
from agents.retrieval.store import open_segment
from agents.services.passages import collection_passages


@dataclass(frozen=True, kw_only=True)
class Delta:
    """The passages that are newer than a whole build, and what that holds still. due: time for a new whole build.

    That is so when half of the passages that a delta may hold are there, or when a deleted document's text is in the files.
    """

    of: IndexBuild
    segment: Segment
    hidden: np.ndarray
    passages: list[IndexedPassage]
    documents: set[int]
    due: bool

    @property
    def served(self) -> int:
        """How many passages a search finds in both together."""
        return self.segment.size - len(self.hidden) + len(self.passages)

    def base(self) -> Base:
        return Base(path=self.of.path, statistics=self.segment.statistics(), hidden=self.hidden)


def delta_of(collection: Collection, current: IndexBuild | None) -> Delta | None:
    """What has changed since the whole build that `current` is or stands on.

    None where a whole build is the way: there is none to stand on, it is small, it was made otherwise, or too much is new.
    """
    if current is None:
        return None
    whole, bound = current.base or current, settings.ADAPTRAG_INLINE_COLLECTION_CHUNKS
    try:
        segment = open_segment(whole.path)
    except (FileNotFoundError, Unavailable, ValueError, KeyError):
        return None
    made = (segment.manifest["language"], segment.manifest["embedding_model"])
    if segment.size <= bound or made != (collection.language, embedder().name):
        return None
    passages = collection_passages(collection, after=segment.manifest["newest_chunk"], most=bound + 1)
    if len(passages) > bound:
        return None
    newer = {passage.document_id for passage in passages}
    held = np.unique(segment.documents)
    there = set(collection.documents.values_list("id", flat=True))
    emptied = set(collection.documents.filter(chunks=None).values_list("id", flat=True))
    deleted = frozenset(held.tolist()) - there
    return Delta(
        of=whole,
        segment=segment,
        hidden=segment.rows_of(deleted | newer | emptied),
        passages=passages,
        documents=(set(held.tolist()) & there - emptied) | newer,
        due=bool(deleted) or len(passages) > bound // 2,
    )
