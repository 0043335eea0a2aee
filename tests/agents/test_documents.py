"""Adding, replacing and deleting documents, and what a search finds after each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from adaptrag.common.errors import InvalidInput
from adaptrag.common.models import Job
from agents import services
from agents.errors import DocumentRejected, NothingIngested, UnknownCollection
from agents.models import Chunk, Collection, Document, IndexBuild, Tombstone
from agents.retrieval.search import METHODS, retrieve
from agents.selectors import collection_for
from tests.agents import sample_files

pytestmark = pytest.mark.django_db(transaction=True)

RAIN = b"# Rain\n\nRain falls from clouds when droplets grow heavy. Umbrellas keep people dry."
WIND = b"# Wind\n\nWind turbines turn moving air into electricity. Gusts shake the blades."


@pytest.fixture
def collection() -> Collection:
    return services.collection_get_or_create("weather")


@pytest.fixture
def add(collection):
    def add(name: str, data: bytes, **options):
        return services.document_add(collection=collection, name=name, data=data, **options)

    return add


def found(collection: Collection, query: str, method: str = "bm25") -> list[str]:
    return [passage.document for passage in retrieve(collection, query, 5, method)]


def uploads(settings) -> list[Path]:
    return sorted(path for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def own_uploads(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "uploads"


def test_a_small_document_is_found_as_soon_as_it_is_added(collection, add, settings):
    result = add("rain.md", RAIN)
    assert (result.created, result.changed, result.job) == (True, True, None)
    assert result.document.state == Document.State.READY
    assert (result.document.title, result.document.source) == ("Rain", "rain.md")
    assert Path(result.document.file.path).read_bytes() == RAIN
    for method in METHODS:
        assert found(collection, "who needs umbrellas?", method) == ["Rain"]


def test_a_passage_says_where_it_stands(collection, add):
    pdf = sample_files.pdf("Nothing of interest here.", "The turbine of Growian had two blades.", title="Big turbines")
    document = add("turbines.pdf", pdf).document
    (passage,) = retrieve(collection, "Growian", 1, "bm25")
    chunk = Chunk.objects.get(pk=passage.chunk_id)
    assert (passage.document_id, passage.document) == (document.pk, "Big turbines")
    assert (passage.text, passage.page) == (chunk.text, chunk.page)
    assert passage.as_source()["scores"] == {"bm25": round(passage.score, 6)}


def test_the_same_bytes_change_nothing(collection, add, settings):
    first = add("rain.md", RAIN)
    builds, chunks, files = IndexBuild.objects.count(), list(Chunk.objects.values_list("id")), uploads(settings)
    again = add("rain.md", RAIN)
    assert (again.created, again.changed, again.job, again.document) == (False, False, None, first.document)
    assert (IndexBuild.objects.count(), list(Chunk.objects.values_list("id")), uploads(settings)) == (builds, chunks, files)


def test_the_same_bytes_are_cut_anew_when_the_size_of_passages_changed(collection, add, settings):
    text = " ".join(f"Sentence {number} tells of the weather." for number in range(40)).encode()
    before = add("long.txt", text).document.chunks.count()
    settings.ADAPTRAG_CHUNK_TOKENS, settings.ADAPTRAG_WINDOW_TOKENS = 32, 16
    again = add("long.txt", text)
    assert (again.created, again.changed) == (False, True)
    assert again.document.chunks.count() > 2 * before
    assert add("long.txt", text).changed is False


def test_changed_bytes_replace_the_content(collection, add, settings):
    old = add("weather.md", RAIN).document
    result = add("weather.md", WIND)
    assert (result.created, result.changed, result.document.pk) == (False, True, old.pk)
    assert found(collection, "electricity from turbines") == ["Wind"]
    assert found(collection, "umbrellas") == []
    assert [path.read_bytes() for path in uploads(settings)] == [WIND]


def test_the_old_content_serves_until_the_new_is_indexed(collection, add):
    add("weather.md", RAIN)
    result = add("weather.md", WIND, index=False)
    assert result.document.state == Document.State.PENDING
    assert found(collection, "umbrellas") == ["Rain"]
    services.collection_index(collection)
    assert found(collection, "umbrellas") == []
    assert Document.objects.get().state == Document.State.READY


def test_equal_files_under_two_sources_are_two_documents(collection, add):
    add("rain.md", RAIN)
    assert add("rain.md", RAIN, source="copy/rain.md").created
    assert len(found(collection, "umbrellas")) == 2


def test_a_deleted_document_is_in_no_search_and_no_index(collection, add, settings):
    add("rain.md", RAIN)
    document = add("wind.md", WIND).document
    services.document_delete(document)
    for method in METHODS:
        assert "Wind" not in found(collection, "electricity from turbines", method)
    folder = Path(settings.DATA_DIR) / "indexes" / str(collection.pk)
    assert not [path for path in folder.rglob("*") if path.is_file() and b"turbines" in path.read_bytes()]
    assert not Chunk.objects.filter(text__contains="turbines").exists()
    assert [path.read_bytes() for path in uploads(settings)] == [RAIN]


def test_a_document_deleted_past_the_services_is_hidden_at_once(collection, add):
    add("rain.md", RAIN)
    add("wind.md", WIND)
    Document.objects.filter(source="wind.md").delete()
    for method in METHODS:
        assert found(collection, "electricity from turbines", method) in ([], ["Rain"])
    assert Tombstone.objects.count() == 1


def test_the_last_document_can_be_deleted(collection, add):
    services.document_delete(add("rain.md", RAIN).document)
    with pytest.raises(NothingIngested, match="nothing to search yet"):
        retrieve(collection, "umbrellas", 3)
    add("wind.md", WIND)
    assert found(collection, "turbines") == ["Wind"]


def test_deleting_a_collection_takes_its_files_along(collection, add, settings):
    add("rain.md", RAIN)
    folder = Path(settings.DATA_DIR) / "indexes" / str(collection.pk)
    assert folder.exists()
    collection.delete()
    assert not folder.exists()
    assert uploads(settings) == []
    assert not Tombstone.objects.exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.pdf", sample_files.pdf("Text.")[:-100]),
        ("locked.pdf", sample_files.encrypted_pdf("password")),
        ("bomb.docx", sample_files.lying_zip_bomb(5_000_000)),
        ("empty.md", b""),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\x00\x00"),
    ],
    ids=["truncated", "encrypted", "bomb", "empty", "wrong type"],
)
def test_a_bad_file_leaves_nothing_behind(collection, add, settings, name, data):
    with pytest.raises(DocumentRejected, match=name) as caught:
        add(name, data)
    assert caught.value.status == 422
    assert (Document.objects.count(), Chunk.objects.count(), IndexBuild.objects.count()) == (0, 0, 0)
    assert uploads(settings) == []


def test_a_bad_new_version_leaves_the_old_one(collection, add, settings):
    add("paper.pdf", sample_files.pdf("Umbrellas keep people dry."))
    with pytest.raises(DocumentRejected):
        add("paper.pdf", sample_files.pdf("Turbines.")[:-100])
    assert found(collection, "umbrellas") == ["paper"]
    assert len(uploads(settings)) == 1


def test_nothing_is_kept_when_the_database_fails(collection, add, settings, monkeypatch):
    from agents.services import documents

    def fail(*_):
        raise RuntimeError("disk full")

    monkeypatch.setattr(documents, "store", fail)
    with pytest.raises(RuntimeError):
        add("rain.md", RAIN)
    assert uploads(settings) == []
    assert not Document.objects.exists()


def test_files_that_a_dead_process_left_are_swept_away_in_time(collection, add, settings):
    kept = add("rain.md", RAIN).document
    folder = Path(kept.file.path).parent
    for name, age in (("old-orphan.md", 2 * 24 * 3600), ("under-way.md", 0), (Path(kept.file.path).name, 2 * 24 * 3600)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    add("wind.md", WIND)
    assert {path.name.rpartition("-")[2] for path in uploads(settings)} == {"rain.md", "wind.md", "way.md"}


def test_a_large_file_is_read_and_indexed_by_a_job(collection, add, settings):
    settings.ADAPTRAG_INLINE_BYTES = 10
    result = add("rain.md", RAIN)
    assert (result.created, result.changed) == (True, True)
    assert (result.job.kind, result.job.state) == ("ingest", Job.State.QUEUED)
    assert (result.document.state, result.document.chunks.count()) == (Document.State.PENDING, 0)
    again = add("rain.md", RAIN)
    assert (again.changed, again.job) == (False, result.job)
    settings.ADAPTRAG_JOBS_EAGER = True
    run(result.job)
    assert found(collection, "umbrellas") == ["Rain"]
    assert Document.objects.get().state == Document.State.READY
    assert add("rain.md", RAIN).changed is False
    assert len(uploads(settings)) == 1


def test_a_large_bad_file_fails_in_sight_and_the_old_content_stays(collection, add, settings):
    add("paper.pdf", sample_files.pdf("Umbrellas keep people dry."))
    settings.ADAPTRAG_INLINE_BYTES = 10
    result = add("paper.pdf", sample_files.pdf("", ""))
    fresh = add("scan.pdf", sample_files.pdf("", "", ""))
    assert run(result.job).state == run(fresh.job).state == Job.State.FAILED
    assert "scanned images" in Job.objects.get(pk=result.job.pk).error
    paper, scan = Document.objects.get(source="paper.pdf"), Document.objects.get(source="scan.pdf")
    assert (paper.state, scan.state) == (Document.State.READY, Document.State.FAILED)
    assert "newer file was rejected" in paper.error
    assert "scanned images" in scan.error
    assert found(collection, "umbrellas") == ["paper"]
    assert len(uploads(settings)) == 1
    settings.ADAPTRAG_INLINE_BYTES = 1_000_000
    assert add("scan.pdf", sample_files.pdf("Turbines.")).document.state == Document.State.READY


def test_of_two_large_uploads_the_newer_counts_in_whichever_order_they_run(collection, add, settings):
    settings.ADAPTRAG_INLINE_BYTES = 10
    first, second = add("weather.md", RAIN), add("weather.md", WIND)
    run(second.job)
    run(first.job)
    assert found(collection, "turbines") == ["Wind"]
    assert [path.read_bytes() for path in uploads(settings)] == [WIND]


def test_many_passages_are_indexed_by_a_job(collection, add, settings):
    settings.ADAPTRAG_INLINE_CHUNKS = 0
    result = add("rain.md", RAIN)
    assert (result.job.kind, result.document.state) == ("index", Document.State.PENDING)
    with pytest.raises(NothingIngested):
        retrieve(collection, "umbrellas", 3)
    run(result.job)
    assert found(collection, "umbrellas") == ["Rain"]


def run(job: Job) -> Job:
    from adaptrag.common.jobs import job_run

    job_run(job.pk, here=True)
    job.refresh_from_db()
    return job


def test_collections_keep_apart(collection, add):
    add("rain.md", RAIN)
    other = services.collection_get_or_create("other")
    services.document_add(collection=other, name="wind.md", data=WIND)
    for method in METHODS:
        assert set(found(collection, "electricity from turbines", method)) <= {"Rain"}
        assert set(found(other, "umbrellas in the rain", method)) <= {"Wind"}


def test_collections_by_name(collection, settings):
    assert collection_for("weather") == collection
    settings.ADAPTRAG_DEFAULT_COLLECTION = "weather"
    assert collection_for(None) == collection
    with pytest.raises(UnknownCollection, match="Collections: weather"):
        collection_for("wether")
    with pytest.raises(InvalidInput, match="lower-case letters"):
        services.collection_get_or_create("Über Wetter")


@pytest.mark.parametrize("source", [" ", "x" * 1001], ids=["blank", "long"])
def test_a_source_that_identifies_nothing_is_refused(add, source):
    with pytest.raises(InvalidInput):
        add("rain.md", RAIN, source=source)
