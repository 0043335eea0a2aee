"""Collections and their index builds."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from adaptrag.common.errors import InvalidInput, Unavailable
from adaptrag.common.jobs import job_enqueue
from adaptrag.common.models import Job
from agents.errors import NothingIngested
from agents.models import Chunk, Collection, Document, IndexBuild, Tombstone
from agents.retrieval.build import IndexedPassage, write_index
from agents.retrieval.embedding import embedder
from agents.retrieval.encoders import Embedder
from agents.retrieval.files import folder_bytes, locked, made_aside
from agents.retrieval.store import open_build
from agents.retrieval.vectors import Progress, VectorCache, VectorSource
from agents.services.deltas import Delta, delta_of
from agents.services.passages import collection_passages
from agents.services.storing import UPLOAD_FOLDERS, sweep_uploads

logger = logging.getLogger(__name__)

KEPT_ROWS = 20  # of builds, as a history
INLINE_PATIENCE = 10.0  # seconds that an upload waits for another builder before it leaves the rest to the queue
KEPT_BUILDS = 2  # the current one and the one before it, which a search may still be opening
ROWS_A_STATEMENT = 500


def collection_get_or_create(name: str) -> Collection:
    """The collection of that name, made if it isn't there. Raises InvalidInput for a name that can't be one."""
    found = Collection.objects.filter(name=name).first()
    if found:
        return found
    try:
        Collection(name=name).clean_fields()
    except ValidationError as error:
        raise InvalidInput(
            f"{name!r} can't be the name of a collection. {' '.join(error.messages)}", collection=name
        ) from error
    return Collection.objects.get_or_create(name=name)[0]


def collection_save(collection: Collection, user: Any = None) -> Collection:
    """Save what an operator changed of a collection: description, language, top_k. Raises InvalidInput."""
    try:
        collection.clean_fields()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(f"{field}: {messages[0]}", field=field) from error
    collection._history_user = user
    # The rest belongs to uploads and builds, which may have gone on meanwhile.
    collection.save(update_fields=["description", "language", "top_k"])
    return collection


def collection_set_top_k(collection: Collection, top_k: int, user: Any = None) -> Collection:
    """How many passages a question asked without top_k gets there. Raises InvalidInput outside 1 to TOP_K_MAX."""
    collection.top_k = top_k
    return collection_save(collection, user)


def collection_index(
    collection: Collection, progress: Progress | None = None, *, force: bool = False, patience: float | None = None
) -> IndexBuild:
    """Index what the collection holds now and put the index in place; returns the build that serves.

    A small collection is written anew; in a large one the new passages get a segment of their own beside the whole build, until
    that is due to be made again (agents.services.deltas). One builder at a time; one that waited finds the other's build and
    makes its own only if something changed. `force` builds in any case, and embeds every passage anew. Until the new build is
    in place the old one serves. Raises NothingIngested if there is no passage and never was an index, TimeoutError if another
    process still builds after `patience` seconds.
    """
    with _building(collection, patience) as waiting:
        current = collection.current_build
        delta = None if force else delta_of(collection, current)
        due = delta is not None and delta.due
        if current is not None and not force and not due and _is_current(collection, current):
            return current
        return _build(collection, None if due else delta, waiting, progress, force=force)


def collection_index_delta(collection: Collection, *, patience: float | None = None) -> bool:
    """Index the newest passages of a large collection in a moment. False where a whole build is due, which is left to a job."""
    with _building(collection, patience) as waiting:
        delta = delta_of(collection, collection.current_build)
        if delta is None:
            return False
        if delta.passages and not _is_current(collection, collection.current_build):
            _build(collection, delta, waiting)
        return not delta.due


@contextmanager
def _building(collection: Collection, patience: float | None) -> Iterator[dict[int, str]]:
    """Be the only builder. Yields the digests of documents that wait for an index, by id."""
    with locked(_folder(collection) / "lock", patience):
        _mark_lost_builds(collection)
        # The version first, the passages after it: a change in between makes the build look older than it is, never newer.
        collection.refresh_from_db()
        yield dict(collection.documents.filter(state=Document.State.PENDING).values_list("id", "sha256"))


def _build(
    collection: Collection,
    delta: Delta | None,
    waiting: dict[int, str],
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> IndexBuild:
    """Write and publish the delta if it has passages, else a whole build."""
    progress = progress or (lambda fraction, message: None)
    current = collection.current_build
    if delta is not None and not delta.passages:
        delta = None
    passages = delta.passages if delta else collection_passages(collection)
    if not passages:
        return _serve_nothing(collection)
    model = embedder()
    cache = vector_cache(model)
    build = IndexBuild.objects.create(
        collection=collection,
        content_version=collection.content_version,
        base=delta.of if delta else None,
        chunks=delta.served if delta else len(passages),
        embedding_model=model.name,
    )
    try:
        known = [] if force else [*_known_vectors(current, model), cache]
        _write(build, passages, model, known, cache, progress, delta)
        _publish(build, delta.documents if delta else {passage.document_id for passage in passages}, waiting)
    except BaseException as error:
        IndexBuild.objects.filter(pk=build.pk).update(state=IndexBuild.State.FAILED, error=f"{type(error).__name__}: {error}")
        raise
    cache.trim(settings.ADAPTRAG_EMBEDDING_CACHE_BYTES)
    _remove_old_builds(collection)
    sweep_uploads(collection)
    progress(1.0, f"{build.chunks:,} passages indexed")
    collection.refresh_from_db()
    return collection.current_build


def collection_index_enqueue(collection: Collection, *, user: Any = None, force: bool = False) -> Job:
    """Index on the queue. One job for each version of the content: a job that already runs may have read an older one."""
    version = Collection.objects.values_list("content_version", flat=True).get(pk=collection.pk)
    return job_enqueue(
        "index",
        {"collection": collection.pk, "force": force},
        title=f"Index {collection.name}",
        idempotency_key=f"index:{collection.pk}:{version}{':force' if force else ''}",
        user=user,
    )


def collection_refresh(collection: Collection, new_chunks: int = 0, *, user: Any = None) -> Job | None:
    """Index here and now where that takes a moment, else on the queue."""
    total = Chunk.objects.filter(document__collection=collection).count()
    if not total and not Collection.objects.filter(pk=collection.pk, current_build__isnull=False).exists():
        return None
    if new_chunks <= settings.ADAPTRAG_INLINE_CHUNKS:
        try:
            if total <= settings.ADAPTRAG_INLINE_COLLECTION_CHUNKS:
                collection_index(collection, patience=INLINE_PATIENCE)
                done = True
            else:
                done = collection_index_delta(collection, patience=INLINE_PATIENCE)
        except TimeoutError:
            done = False
            logger.info("collection %s is being indexed by another process; the queue goes on from there", collection.name)
        if done:
            from agents.services.derived import derived_enqueue  # which builds on this module

            derived_enqueue(collection, user=user)
            return None
    return collection_index_enqueue(collection, user=user)


def _is_current(collection: Collection, build: IndexBuild) -> bool:
    try:
        files = open_build(build.path)
    except (FileNotFoundError, Unavailable, ValueError, KeyError):
        return False
    return (
        build.content_version == collection.content_version
        and files.language == collection.language
        and files.embedding_model == embedder().name
        and files.store == settings.ADAPTRAG_INDEX_STORE
    )


def _write(
    build: IndexBuild,
    passages: list[IndexedPassage],
    model: Embedder,
    known: Sequence[VectorSource],
    cache: VectorCache,
    progress: Progress,
    delta: Delta | None,
) -> None:
    begun = time.monotonic()
    # A name of its own, also where ids come again: after a restore processes may have older builds open.
    target = _folder(build.collection) / f"{build.pk}-{secrets.token_hex(4)}"
    with made_aside(target) as folder:
        write_index(
            folder,
            passages,
            language=build.collection.language,
            embedder=model,
            known=known,
            cache=cache,
            threads=settings.ADAPTRAG_EMBEDDING_THREADS,
            progress=progress,
            base=delta.base() if delta else None,
        )
        if settings.ADAPTRAG_INDEX_STORE == "milvus":
            from agents.retrieval import milvus

            progress(0.95, "moving the index to Milvus")
            milvus.upload(folder, milvus.name_of(build.collection_id, target.name))
    build.path = str(target.relative_to(settings.DATA_DIR))
    build.bytes_on_disk = folder_bytes(target)
    build.seconds = round(time.monotonic() - begun, 3)
    build.save(update_fields=["path", "bytes_on_disk", "seconds"])


def vector_cache(model: Embedder) -> VectorCache:
    """What this embedding model has embedded, for all collections and whatever is indexed of them."""
    return VectorCache(Path(settings.DATA_DIR) / "embeddings" / f"{model.name}.sqlite3", model.dimensions)


def _known_vectors(build: IndexBuild | None, model: Embedder) -> list[VectorSource]:
    if build is None or build.embedding_model != model.name:
        return []
    try:
        return [open_build(build.path)]
    except (FileNotFoundError, Unavailable):
        return []


def _publish(build: IndexBuild, indexed: set[int], pending: dict[int, str]) -> None:
    """Name the build as the current one. Whatever was deleted while it was made gets its tombstones in the same transaction.

    pending: digest by id of the documents that waited for an index when the passages were read.
    """
    with transaction.atomic():
        collection = Collection.objects.select_for_update().get(pk=build.collection_id)
        if collection.content_version != build.content_version:
            there = set(collection.documents.values_list("id", flat=True))
            Tombstone.objects.bulk_create(Tombstone(build=build, document_id=gone) for gone in sorted(indexed - there))
        waiting = collection.documents.filter(state=Document.State.PENDING)
        ready = [pk for pk, digest in waiting.values_list("id", "sha256") if pending.get(pk) == digest and pk in indexed]
        for begin in range(0, len(ready), ROWS_A_STATEMENT):
            Document.objects.filter(pk__in=ready[begin : begin + ROWS_A_STATEMENT]).update(state=Document.State.READY, error="")
        IndexBuild.objects.filter(pk=build.pk).update(state=IndexBuild.State.READY)
        Collection.objects.filter(pk=collection.pk).update(current_build=build)


def _serve_nothing(collection: Collection) -> IndexBuild:
    """The last document is gone: no build serves any more."""
    last = collection.current_build
    if last is None:
        raise NothingIngested(f"The collection {collection.name!r} holds no passage to index. Add documents first.")
    Collection.objects.filter(pk=collection.pk, content_version=collection.content_version).update(current_build=None)
    _remove_old_builds(collection)
    return last


def _mark_lost_builds(collection: Collection) -> None:
    """Under the lock no other builder lives, so a build that is still in the making was interrupted."""
    lost = collection.builds.filter(state=IndexBuild.State.BUILDING)
    lost.update(state=IndexBuild.State.FAILED, error="Interrupted: the process that made it ended.")


def _remove_old_builds(collection: Collection) -> None:
    """Some rows stay as history; files go, except the current ones and those before, which a search may be about to open.

    A build that holds a deleted document goes at once: nothing of a deleted document stays in any index.
    """
    current = IndexBuild.objects.filter(pk__in=Collection.objects.filter(pk=collection.pk).values("current_build")).first()
    kept = [current] if current else []
    before = collection.builds.filter(state=IndexBuild.State.READY, tombstones=None).exclude(pk__in=[one.pk for one in kept])
    # A base that no longer serves may hold what was deleted while its deltas did.
    before = before.filter(base=current.base_id if current else None, deltas=None)
    kept += before.order_by("-id")[: KEPT_BUILDS - 1]
    rows = {pk for one in kept for pk in (one.pk, one.base_id)}
    paths = set(IndexBuild.objects.filter(pk__in=rows - {None}).values_list("path", flat=True))
    for folder in _folder(collection).iterdir():
        if folder.is_dir() and str(folder.relative_to(settings.DATA_DIR)) not in paths:
            shutil.rmtree(folder, ignore_errors=True)
    _sweep_milvus(collection.pk, [Path(path).name for path in paths])
    newest = set(collection.builds.order_by("-id").values_list("pk", flat=True)[:KEPT_ROWS])
    collection.builds.exclude(pk__in=newest | rows).delete()


def _sweep_milvus(collection_id: int, kept: Sequence[str]) -> None:
    if settings.ADAPTRAG_MILVUS_URI:
        from agents.retrieval import milvus

        milvus.sweep(collection_id, kept)


def _folder(collection: Collection) -> Path:
    return Path(settings.DATA_DIR) / "indexes" / str(collection.pk)


def remove_collection_files(collection_id: int) -> None:
    """Remove what a deleted collection leaves on disk."""
    shutil.rmtree(Path(settings.DATA_DIR) / "indexes" / str(collection_id), ignore_errors=True)
    shutil.rmtree(Path(settings.DATA_DIR) / "derived" / str(collection_id), ignore_errors=True)
    for kind in UPLOAD_FOLDERS:
        shutil.rmtree(Path(settings.MEDIA_ROOT) / kind / str(collection_id), ignore_errors=True)
    _sweep_milvus(collection_id, ())
