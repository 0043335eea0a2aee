"""Derived indexes: sentences, children and the graph of a collection, made where an agent's strategy needs them."""

from __future__ import annotations

import functools
import logging
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from adaptrag.common.jobs import job_enqueue
from adaptrag.common.models import Job
from agents.llm.factory import chat_model
from agents.models import AgentVariant, Collection, DerivedIndex
from agents.retrieval.build import FORM, IndexedPassage, write_index
from agents.retrieval.embedding import embedder
from agents.retrieval.entities import Extraction, extract
from agents.retrieval.files import folder_bytes, locked, made_aside
from agents.retrieval.graph import FORM as GRAPH_FORM
from agents.retrieval.graph import read_extractions, write_graph
from agents.retrieval.graph_model import extract_by_model
from agents.retrieval.store import open_build
from agents.retrieval.units import UNITS, units
from agents.retrieval.vectors import Progress, VectorSource
from agents.selectors import live_variants
from agents.services.collections import vector_cache
from agents.services.passages import collection_passages
from agents.strategies import STRATEGIES

logger = logging.getLogger(__name__)


def kinds_needed() -> list[str]:
    """What the strategies of the agents that answer now search beside passages."""
    strategies = {variant.strategy for variant in live_variants()} & set(STRATEGIES)
    return sorted({kind for name in strategies for kind in STRATEGIES[name].needs})


def derived_prepare(collection: Collection, variants: Iterable[AgentVariant], progress: Progress | None = None) -> list[str]:
    """Make what the variants search there and isn't there yet, also what a candidate or a switched-off agent needs."""
    kinds = {kind for variant in variants if variant.strategy in STRATEGIES for kind in STRATEGIES[variant.strategy].needs}
    return derived_refresh(collection, progress, sorted(kinds)) if kinds else []


def derived_refresh(collection: Collection, progress: Progress | None = None, kinds: Sequence[str] | None = None) -> list[str]:
    """Bring the collection's derived indexes up to its content; returns the kinds that had to be made.

    kinds: None for those that agents need now, and those that are there already.
    """
    there = set(collection.derived.values_list("kind", flat=True))
    made = []
    for kind in sorted(set(kinds_needed() if kinds is None else kinds) | there):
        if _refresh(collection, kind, progress or (lambda fraction, message: None)):
            made.append(kind)
    return made


def derived_enqueue(collection: Collection, kinds: Sequence[str] = (), *, user: Any = None) -> Job | None:
    """The same on the queue, where something is to be made; None where not. `kinds`: besides those that agents need."""
    version = Collection.objects.values_list("content_version", flat=True).get(pk=collection.pk)
    there = dict(collection.derived.values_list("kind", "content_version"))
    wanted = sorted(set(kinds) | set(kinds_needed()) | set(there))
    if all(there.get(kind) == version for kind in wanted):
        return None
    return job_enqueue(
        "derive",
        {"collection": collection.pk, "kinds": wanted},
        title=f"Index {' and '.join(wanted)} of {collection.name}",
        idempotency_key=f"derive:{collection.pk}:{version}:{','.join(wanted)}",
        user=user,
    )


def derived_enqueue_missing(user: Any = None) -> None:
    """For every collection with an index: what a newly enabled agent needs there."""
    if not (needed := kinds_needed()):
        return
    for collection in Collection.objects.filter(current_build__isnull=False):
        if set(needed) - set(collection.derived.values_list("kind", flat=True)):
            derived_enqueue(collection, needed, user=user)


def _refresh(collection: Collection, kind: str, progress: Progress) -> bool:
    with locked(_folder(collection, kind) / "lock"):
        # The version first, the passages after it, as for the collection's own index.
        collection.refresh_from_db()
        row = collection.derived.filter(kind=kind).first()
        maker = _maker(collection, kind)
        if (
            row
            and (row.content_version, row.maker) == (collection.content_version, maker)
            and (Path(settings.DATA_DIR) / row.path).is_dir()
        ):
            return False
        passages = collection_passages(collection)
        if not passages:
            collection.derived.filter(kind=kind).delete()
            _remove_others(collection, kind, "")
            return False
        begun, version = time.monotonic(), collection.content_version
        target = _folder(collection, kind) / f"{version}-{secrets.token_hex(4)}"
        with made_aside(target) as folder:
            items = _write(folder, collection, kind, passages, row, progress)
        values = {
            "path": str(target.relative_to(settings.DATA_DIR)),
            "content_version": version,
            "maker": maker,
            "items": items,
            "bytes_on_disk": folder_bytes(target),
            "seconds": round(time.monotonic() - begun, 3),
        }
        with transaction.atomic():
            # Deleted meanwhile: its files were removed when that was committed, and these must follow.
            if alive := Collection.objects.select_for_update().filter(pk=collection.pk).exists():
                DerivedIndex.objects.update_or_create(collection=collection, kind=kind, defaults=values)
        _remove_others(collection, kind, target.name if alive else "")
        return alive


def _maker(collection: Collection, kind: str) -> str:
    if kind == "graph":
        return f"graph of form {GRAPH_FORM}, {settings.ADAPTRAG_GRAPH_MODEL or 'rules'}"
    return f"{kind} of form {FORM}, {collection.language}, {embedder().name}"


def _write(
    folder: Path,
    collection: Collection,
    kind: str,
    passages: list[IndexedPassage],
    row: DerivedIndex | None,
    progress: Progress,
) -> int:
    """Fill the folder; returns how many items the index has."""
    if kind == "graph":
        return write_graph(folder, _extractions(collection, passages, row, progress))
    parts = units(kind, passages)
    model = embedder()
    cache = vector_cache(model)
    write_index(
        folder,
        parts,
        language=collection.language,
        embedder=model,
        known=[*_known_vectors(collection, row), cache],
        cache=cache,
        threads=settings.ADAPTRAG_EMBEDDING_THREADS,
        progress=progress,
    )
    cache.trim(settings.ADAPTRAG_EMBEDDING_CACHE_BYTES)
    return len(parts)


def _extractions(
    collection: Collection, passages: list[IndexedPassage], row: DerivedIndex | None, progress: Progress
) -> dict[int, Extraction]:
    """What each passage says: from the graph before where it has the chunk, else read now."""
    known = read_extractions(Path(settings.DATA_DIR) / row.path) if row and row.maker == _maker(collection, "graph") else {}
    read = extract
    if name := settings.ADAPTRAG_GRAPH_MODEL:
        read = functools.partial(extract_by_model, chat_model("openai_compatible", name, {}))
    found: dict[int, Extraction] = {}
    for done, passage in enumerate(passages):
        found[passage.chunk_id] = known.get(passage.chunk_id) or read(passage.title, passage.text)
        if done % 100 == 0:
            progress(done / len(passages), f"reading {len(passages):,} passages for the graph")
    return found


def _known_vectors(collection: Collection, row: DerivedIndex | None) -> list[VectorSource]:
    """What the passages' index and the version before have embedded already."""
    build = collection.current_build
    paths = [build.path] if build and build.embedding_model == embedder().name else []
    if row and row.kind in UNITS and row.maker.endswith(embedder().name):
        paths.append(row.path)
    known: list[VectorSource] = []
    for path in paths:
        try:
            known.append(open_build(path))
        except FileNotFoundError:
            logger.info("%s is gone; its texts are embedded again", path)
    return known


def _remove_others(collection: Collection, kind: str, kept: str) -> None:
    """Nothing of a deleted document stays in any file. A search that was about to open an old version looks again."""
    for folder in _folder(collection, kind).iterdir():
        if folder.is_dir() and folder.name != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(collection: Collection, kind: str) -> Path:
    return Path(settings.DATA_DIR) / "derived" / str(collection.pk) / kind
