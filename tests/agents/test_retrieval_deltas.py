"""Adding to and deleting from a large index: a segment beside it, tombstones, and the whole build that takes both in."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from adaptrag.common.models import Job
from agents import services
from agents.models import Collection, Document, IndexBuild
from agents.retrieval import dense
from agents.retrieval.search import METHODS, retrieve
from tests.agents.test_retrieval_builds import ASK, NOTES, add, notes, site  # noqa: F401 fixtures

pytestmark = pytest.mark.django_db(transaction=True)

LARGE = 12  # passages; more than the bound that the tests set


@pytest.fixture
def collection(settings) -> Collection:
    settings.ADAPTRAG_INLINE_COLLECTION_CHUNKS = 6
    collection = services.collection_get_or_create("notes")
    add(collection, *range(LARGE))
    services.collection_index(collection)
    return collection


def upload(collection: Collection, number: int, text: str | None = None) -> services.DocumentResult:
    data = (text or NOTES[number]).encode()
    return services.document_add(collection=collection, name=f"{number}.txt", data=data)


def current(collection: Collection) -> IndexBuild:
    collection.refresh_from_db()
    return collection.current_build


def found(collection: Collection, question: str, method: str = "bm25", k: int = 3) -> list[str]:
    return [passage.document for passage in retrieve(collection, question, k, method)]


@pytest.mark.parametrize("method", METHODS)
def test_an_upload_to_a_large_collection_is_searchable_at_once_without_a_whole_build(collection, method):
    whole = current(collection)
    result = upload(collection, 20)
    assert result.job is None
    assert (current(collection).base, current(collection).chunks) == (whole, LARGE + 1)
    assert found(collection, "subject20", method)[0] == "20"
    assert found(collection, "subject3", method)[0] == "3"
    assert result.document.state == Document.State.READY


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_base_and_newer_passages_compare(collection, method):
    """The same text scores the same on both sides."""
    services.document_add(collection=collection, name="5.txt", source="elsewhere/5.txt", data=NOTES[5].encode())
    assert current(collection).base is not None
    first, second = retrieve(collection, NOTES[5], 2, method)
    assert first.document == second.document == "5"
    assert first.chunk_id != second.chunk_id
    assert first.scores == pytest.approx(second.scores, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_replaced_document_is_found_by_its_new_text_only(collection, method):
    upload(collection, 4, "Entirely about giraffes.")
    assert current(collection).base is not None
    assert found(collection, "giraffes", method)[0] == "4"
    assert found(collection, "giraffes subject4", method, 20).count("4") == 1
    assert "4" not in found(collection, "subject4") or "giraffes" in retrieve(collection, "subject4", 1, "bm25")[0].text


def test_a_deleted_document_is_hidden_at_once_and_leaves_the_files_with_the_next_whole_build(collection, settings):
    upload(collection, 20)
    services.document_delete(Document.objects.get(source="3.txt"))
    for method in METHODS:
        assert "3" not in found(collection, "subject3", method, 20)
    services.document_delete(Document.objects.get(source="20.txt"))
    for method in METHODS:
        assert "20" not in found(collection, "subject20", method, 20)
    assert Job.objects.filter(kind="index").exists()
    build = services.collection_index(collection)
    assert (build.base, build.chunks) == (None, LARGE - 1)
    folder = Path(settings.DATA_DIR) / "indexes" / str(collection.pk)
    texts = [path.read_text() for path in folder.glob("*/passages.jsonl")]
    assert texts
    assert not any("subject3 " in text or "subject20 " in text for text in texts)


def test_deltas_grow_until_a_whole_build_is_due(collection):
    whole = current(collection)
    jobs = [upload(collection, number).job for number in range(20, 26)]
    assert [job is None for job in jobs] == [True] * 3 + [False] * 3
    assert current(collection).base == whole
    assert found(collection, "subject25")[0] == "25"
    again = services.collection_index(collection)
    assert (again.base, again.chunks) == (None, LARGE + 6)
    assert found(collection, "subject25")[0] == "25"
    assert services.collection_index(collection) == again


def test_more_than_a_delta_holds_is_left_to_a_whole_build(collection):
    add(collection, *range(20, 28))
    assert services.collection_refresh(collection, 8) is not None
    assert services.collection_index(collection).base is None


def test_a_base_stays_while_a_delta_stands_on_it(collection, settings):
    for number in range(20, 23):
        upload(collection, number)
    base = current(collection).base
    assert (Path(settings.DATA_DIR) / base.path / "manifest.json").is_file()
    assert IndexBuild.objects.filter(pk=base.pk).exists()


def test_the_admin_shows_base_and_delta_as_serving(collection):
    from django.contrib import admin

    upload(collection, 20)
    page = admin.site._registry[IndexBuild]
    shown = {page.build(build): page.state_label(build) for build in IndexBuild.objects.select_related("base")}
    delta, base = current(collection), current(collection).base
    newest = f"build {delta.pk}, newer passages beside build {base.pk}"
    assert (shown[newest], shown[f"build {base.pk}"]) == ("serving", "serving")


def test_another_language_makes_the_whole_index_anew(collection):
    upload(collection, 20)
    Collection.objects.filter(pk=collection.pk).update(language="german")
    assert services.collection_index(collection).base is None


def test_a_large_index_is_a_graph_that_finds_what_a_scan_finds(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((40, 64))
    vectors = (centres[rng.integers(40, size=4000)] + rng.standard_normal((4000, 64)) * 0.5).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dense.write_dense(tmp_path / "exact", vectors, 1)
    monkeypatch.setattr(dense, "EXACT_BELOW", 1000)
    dense.write_dense(tmp_path / "graph", vectors, 1)
    exact, graph = dense.DenseIndex(tmp_path / "exact"), dense.DenseIndex(tmp_path / "graph")
    assert (exact.exact, graph.exact) == (True, False)
    hidden = np.ones(4000, bool)
    hidden[::2] = False
    for allowed in (None, np.packbits(hidden, bitorder="little")):
        shared = 0
        for vector in vectors[:50]:
            wanted, got = (index.search(vector[None], 20, allowed)[1] for index in (exact, graph))
            shared += len(set(wanted.tolist()) & set(got.tolist()))
            assert allowed is None or (got % 2 == 1).all()
        assert shared >= 0.97 * 50 * 20
    np.testing.assert_allclose(graph.vectors(np.arange(10)), vectors[:10], atol=1e-3)
    assert len(graph.search(vectors[:1], 4000)[1]) == 4000


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["writing", "publishing"])
def test_a_delta_or_a_whole_build_that_is_killed_leaves_what_serves(site, notes, tmp_path, moment):  # noqa: F811
    site.environment["ADAPTRAG_INLINE_COLLECTION_CHUNKS"] = "6"
    first = tmp_path / "first"
    first.mkdir()
    for number in range(LARGE):
        (notes / f"{number}.txt").rename(first / f"{number}.txt")
    site.must("ingest", str(first))
    site.must("ingest", str(notes / "20.txt"))
    name = {"writing": "write_bm25", "publishing": "_publish"}[moment]
    module = {"writing": "agents.retrieval.build", "publishing": "agents.services.collections"}[moment]
    for victim in (notes / "21.txt", notes):  # a delta, a whole build
        builder = site.start(
            f"""
import importlib, time
from django.core.management import call_command
def hang(*_, **__):
    print("there", flush=True)
    time.sleep(600)
setattr(importlib.import_module({module!r}), {name!r}, hang)
call_command("ingest", {str(victim)!r})
"""
        )
        assert builder.stdout.readline().strip() == "there"
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        answers = site.start(ASK).communicate("subject0\nsubject20\nsubject21\n", timeout=60)[0].split("\n")
        assert answers[:3] == ["0 False", "20 False", "- False"]
    site.must("ingest", str(notes))
    answers = site.start(ASK).communicate("subject0\nsubject21\nsubject39\n", timeout=60)[0].split("\n")
    assert answers[:3] == ["0 False", "21 False", "39 False"]
    assert site.rows("SELECT state FROM agents_indexbuild WHERE id = (SELECT max(id) FROM agents_indexbuild)") == [("ready",)]
