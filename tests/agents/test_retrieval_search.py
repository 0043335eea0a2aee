"""Searching: the three methods, their order and scores, and wrong questions."""

from __future__ import annotations

import numpy as np
import pytest
from django.test.utils import CaptureQueriesContext

from adaptrag.common.errors import InvalidInput, Unavailable
from agents import services
from agents.errors import NothingIngested, UnknownCollection
from agents.models import Collection, Document, IndexBuild
from agents.retrieval import search
from agents.retrieval.fusion import fuse
from agents.retrieval.search import METHODS, retrieve

pytestmark = pytest.mark.django_db(transaction=True)

NOTES = {
    "rain": "Rain falls from clouds when droplets grow heavy. Umbrellas keep people dry.",
    "wind": "Wind turbines turn moving air into electricity. Gusts shake the blades.",
    "snow": "Snow is frozen water. Ploughs clear the roads in winter.",
    "sun": "Solar panels turn light into electricity. Clouds lower their yield.",
    "fog": "Fog is a cloud that touches the ground. Drivers switch on their lamps.",
}


@pytest.fixture(params=["files", "milvus"], autouse=True)
def store(request, settings, tmp_path_factory) -> str:
    """Every test runs on both."""
    if request.param == "milvus":
        pytest.importorskip("milvus_lite")
        settings.ADAPTRAG_INDEX_STORE = "milvus"
        settings.ADAPTRAG_MILVUS_URI = str(tmp_path_factory.getbasetemp() / "milvus.db")
    return request.param


@pytest.fixture
def collection(store) -> Collection:
    collection = services.collection_get_or_create("weather")
    for name, text in NOTES.items():
        services.document_add(collection=collection, name=f"{name}.txt", data=text.encode(), index=False)
    services.collection_index(collection)
    return collection


@pytest.mark.parametrize("method", METHODS)
def test_passages_come_best_first_with_the_scores_of_each_half(collection, method):
    passages = retrieve(collection, "how is electricity made from light?", 3, method)
    assert passages[0].document == "sun"
    assert [passage.rank for passage in passages] == list(range(1, len(passages) + 1))
    assert [passage.score for passage in passages] == sorted((passage.score for passage in passages), reverse=True)
    halves = {"bm25": {"bm25"}, "dense": {"dense"}, "hybrid": {"bm25", "dense", "hybrid"}}[method]
    for passage in passages:
        assert set(passage.scores) == halves
        assert passage.score == passage.scores[method]
        assert passage.retriever == method


def test_hybrid_gives_each_passage_the_scores_that_its_halves_give_it(collection):
    question = "clouds and electricity"
    alone = {
        method: {passage.chunk_id: passage.score for passage in retrieve(collection, question, 5, method)}
        for method in ("bm25", "dense")
    }
    for passage in retrieve(collection, question, 5, "hybrid"):
        assert passage.scores["bm25"] == pytest.approx(alone["bm25"].get(passage.chunk_id, 0), abs=1e-5)
        assert passage.scores["dense"] == pytest.approx(alone["dense"][passage.chunk_id], abs=1e-5)


def test_bm25_finds_nothing_where_no_word_occurs_and_dense_still_ranks(collection):
    assert retrieve(collection, "xyzzy", 3, "bm25") == []
    assert len(retrieve(collection, "xyzzy", 3, "dense")) == 3
    assert len(retrieve(collection, "xyzzy", 3, "hybrid")) == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("query", ["", "?!", "\x00", "北京的天气", "🌧️", "clouds " * 20_000], ids=lambda query: query[:8])
def test_any_text_can_be_asked(collection, method, query):
    assert len(retrieve(collection, query, 2, method)) <= 2


@pytest.mark.parametrize("method", METHODS)
def test_more_passages_than_there_are(collection, method):
    passages = retrieve(collection, "clouds and electricity", 1_000_000, method)
    assert len({passage.chunk_id for passage in passages}) == len(passages) <= len(NOTES)


def test_wrong_questions_are_refused(collection):
    with pytest.raises(InvalidInput, match="bm25, dense, hybrid"):
        retrieve(collection, "rain", 3, "magic")
    with pytest.raises(InvalidInput, match="top_k is 0"):
        retrieve(collection, "rain", 0)


def test_an_empty_collection_says_so():
    empty = services.collection_get_or_create("empty")
    for method in METHODS:
        with pytest.raises(NothingIngested, match="'empty'"):
            retrieve(empty, "rain", 3, method)


def test_a_deleted_collection_says_so(collection):
    Collection.objects.all().delete()
    with pytest.raises(UnknownCollection, match="deleted"):
        retrieve(collection, "rain", 3)


def test_missing_index_files_are_told_and_indexing_again_mends_them(collection, settings, tmp_path):
    IndexBuild.objects.update(path="indexes/0/gone")
    with pytest.raises(Unavailable, match="Index it again"):
        retrieve(collection, "rain", 3)
    services.collection_index(collection)
    assert retrieve(collection, "umbrellas", 1)[0].document == "rain"


def test_a_build_that_is_replaced_during_the_question_is_looked_up_again(collection, monkeypatch):
    look, calls = search.current_build, []

    def too_early(asked):
        calls.append(1)
        if len(calls) == 1:
            raise FileNotFoundError
        return look(asked)

    monkeypatch.setattr(search, "current_build", too_early)
    assert retrieve(collection, "umbrellas", 1)[0].document == "rain"
    assert len(calls) == 2


def test_another_embedding_model_than_the_indexs_is_refused_except_for_bm25(collection, monkeypatch):
    from agents.retrieval import embedding

    monkeypatch.setattr(embedding.embedder(), "name", "another")
    with pytest.raises(Unavailable, match="Index the collection again"):
        retrieve(collection, "umbrellas", 1)
    assert retrieve(collection, "umbrellas", 1, "bm25")


def test_rank_bm25_answers_alike(collection, settings):
    question = "who keeps the roads clear in winter?"
    usual = retrieve(collection, question, 3, "bm25")
    settings.ADAPTRAG_BM25_BACKEND = "rank_bm25"
    reference = retrieve(collection, question, 3, "bm25")
    assert [passage.chunk_id for passage in reference] == [passage.chunk_id for passage in usual]
    np.testing.assert_allclose([p.score for p in reference], [p.score for p in usual], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_search_asks_the_database_once(collection, method):
    from django.db import connection

    with CaptureQueriesContext(
        connection,
    ) as queries:
        retrieve(collection, "umbrellas", 3, method)
    assert len(queries) == 1


def test_the_language_stems_the_questions_of_its_collection():
    collection = services.collection_get_or_create("german")
    Collection.objects.filter(pk=collection.pk).update(language="german")
    services.document_add(collection=collection, name="haus.txt", data=b"Das alte Haus steht am Fluss.")
    assert retrieve(collection, "Häuser", 1, "bm25")[0].document == "haus"


def test_a_new_language_makes_a_new_index(collection):
    first = services.collection_index(collection)
    assert services.collection_index(collection) == first
    Collection.objects.filter(pk=collection.pk).update(language="none")
    assert services.collection_index(collection) != first


def test_fusion_keeps_the_order_where_one_half_says_nothing():
    dense = np.array([0.1, 0.5, 0.3])
    assert np.argsort(-fuse(np.zeros(3), dense)).tolist() == [1, 2, 0]
    assert np.argsort(-fuse(dense * 100, np.zeros(3))).tolist() == [1, 2, 0]
    assert fuse(np.array([4.0]), np.array([0.2])).shape == (1,)


def test_fusion_weighs_both_halves_whatever_their_scale():
    sparse, dense = np.array([20.0, 10.0, 0.0]), np.array([0.50, 0.52, 0.30])
    assert np.argsort(-fuse(sparse, dense)).tolist() == np.argsort(-fuse(sparse / 1000, dense)).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_milvus_gives_the_scores_of_files(collection, store, settings, method):
    if store != "milvus":
        pytest.skip("of Milvus only")
    question = "Who keeps roads clear when clouds bring snow, snow, snow?"
    here = retrieve(collection, question, 5, method)
    settings.ADAPTRAG_INDEX_STORE = "files"
    services.collection_index(collection)
    there = retrieve(collection, question, 5, method)
    assert [passage.chunk_id for passage in there] == [passage.chunk_id for passage in here]
    np.testing.assert_allclose([p.score for p in there], [p.score for p in here], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_deleted_document_is_found_no_more(collection, method, monkeypatch):
    from agents.services import documents

    monkeypatch.setattr(documents, "collection_refresh", lambda *_, **__: None)  # the index keeps it
    Document.objects.get(source="snow.txt").delete()
    found = [passage.document for passage in retrieve(collection, "snow on roads in winter", 5, method)]
    assert "snow" not in found


def test_indexing_again_drops_what_milvus_held_before(collection, store):
    if store != "milvus":
        pytest.skip("of Milvus only")
    from agents.retrieval.milvus import client

    for _ in range(3):
        services.collection_index(collection, force=True)
    names = [name for name in client().list_collections() if name.startswith(f"adaptrag_{collection.pk}_")]
    assert len(names) == 4  # passages and windows of the build that serves and of the one before
    Collection.objects.all().delete()
    assert not [name for name in client().list_collections() if name.startswith(f"adaptrag_{collection.pk}_")]
