"""Sentences and children: cut, indexed beside the passages, searched, grown, and kept in step with documents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from django.conf import settings

from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents import services
from agents.errors import IndexNotReady, NothingIngested
from agents.models import Collection
from agents.retrieval.around import Around
from agents.retrieval.search import retrieve
from agents.retrieval.units import sentences
from agents.services.agents import agent_answer
from agents.strategies import STRATEGIES
from agents.strategies.base import AgentRequest

pytestmark = pytest.mark.django_db(transaction=True)

HARBOUR = f"""# Harbour

## Fees

Fees are due before departure. Ships under ten metres pay 20 crowns a night. Larger ships pay by the metre. The office takes
cards and cash. Receipts are sent by mail.
{" ".join(f"Berth {number} has a bollard, a ladder and a light." for number in range(20))}

## Lighthouse

The keeper is Marta Olsen. She has kept the lamp since 1998. The lamp turns once in twelve seconds.
Fog signals sound twice a minute.
{" ".join(f"Lamp {number} is kept in the store below the stairs." for number in range(20))}
"""
FERRIES = "Ferries leave at six in the morning. The last one leaves at five. Dogs travel free of charge. Bikes cost 5."
AROUND = {"sentence": Around(unit="sentence", sides=1), "child": Around(unit="child", chars=600)}


@pytest.fixture
def collection() -> Collection:
    collection = services.collection_get_or_create("harbour")
    services.document_add(collection=collection, name="harbour.md", data=HARBOUR.encode())
    services.document_add(collection=collection, name="ferries.txt", data=FERRIES.encode())
    services.derived_refresh(collection, kinds=["sentence", "child"])
    collection.refresh_from_db()
    return collection


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The first sentence is here. The second one follows it! Is this the third one?", 3),
        ("Dr. Olsen met Prof. A. Berg at No. 7 on Monday. They talked for an hour.", 2),
        ("The value is 3.14 and version 2.0 of e.g. the tool. It works as expected.", 2),
        ("Yes. No. This sentence is long enough to stand alone.", 1),
        ("A list follows here:\n- the first thing of the list\n- the second thing of the list", 3),
        (
            "这是第一个句子，它足够长，可以单独存在，因为它有很多字。这是第二个句子，它也足够长，可以单独存在，因为它有很多字。",
            2,
        ),
        ("", 0),
        ("   \n ", 0),
        ("word " * 400, 4),
        ("x" * 1300, 3),
    ],
)
def test_sentences_are_cut_where_they_end(text, parts):
    spans = sentences(text)
    assert len(spans) == parts
    assert "".join(text.split()) == "".join("".join(text[start:end].split()) for start, end in spans)
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


def test_a_sentence_comes_with_the_window_around_it(collection):
    found, *_ = retrieve(collection, "since when has the lamp been kept?", 1, "hybrid", around=AROUND["sentence"])
    matched = [found.text[start - found.start : end - found.start] for start, end in found.matched]
    assert "She has kept the lamp since 1998." in matched
    assert "The keeper" in found.text
    assert "twelve seconds." in found.text
    assert "Lamp 3" not in found.text
    assert found.document == "Harbour"


def test_what_is_returned_stands_in_the_document_where_it_says(collection):
    for around in AROUND.values():
        for passage in retrieve(collection, "fees, crowns and ferries", 5, "hybrid", around=around):
            text = {"Harbour": HARBOUR, "ferries": FERRIES}[passage.document]
            assert text[passage.start : passage.end].split() == passage.text.split()
            assert len(passage.text) == passage.end - passage.start


@pytest.mark.parametrize("unit", AROUND)
def test_stretches_are_merged_and_hold_each_passage_once(collection, unit):
    found = retrieve(collection, "fees due crowns cards cash receipts metres", 10, "hybrid", around=AROUND[unit])
    assert len({passage.chunk_id for passage in found}) == len(found)
    spans = sorted((passage.document_id, passage.start, passage.end) for passage in found)
    for (document, _, end), (other, start, _) in pairwise(spans):
        assert document != other or start >= end
    assert [passage.rank for passage in found] == list(range(1, len(found) + 1))


def test_a_parent_ends_with_its_section(collection):
    found, *_ = retrieve(collection, "how often does the lamp turn?", 1, "hybrid", around=AROUND["child"])
    assert found.heading.endswith("Lighthouse")
    assert "Marta Olsen" in found.text
    assert "Fog signals" in found.text
    assert "Receipts" not in found.text


@pytest.mark.parametrize("unit", AROUND)
def test_nothing_of_a_deleted_document_comes_out(collection, unit):
    services.document_delete(collection.documents.get(source="ferries.txt"))
    found = retrieve(collection, "ferries leave in the morning", 5, "hybrid", around=AROUND[unit])
    assert {passage.document for passage in found} == {"Harbour"}
    (job,) = Job.objects.filter(kind="derive", state=Job.State.QUEUED)
    job_run(job.pk, here=True)
    folder = Path(settings.DATA_DIR) / "derived" / str(collection.pk)
    assert not any(b"Ferries leave" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_new_documents_reach_the_sentences_by_a_job(collection):
    services.document_add(
        collection=collection, name="buoys.txt", data=b"Red buoys mark the port side of the channel. Green ones do not."
    )
    (job,) = Job.objects.filter(kind="derive", state=Job.State.QUEUED)
    job_run(job.pk, here=True)
    found, *_ = retrieve(collection, "which buoys mark the port side?", 1, "hybrid", around=AROUND["sentence"])
    assert found.document == "buoys"
    assert services.derived_enqueue(collection) is None


def test_children_are_not_embedded_a_second_time(collection, monkeypatch, settings):
    """Without the cache of vectors, too: a derived index asks the passages' index and its own predecessor."""
    from agents.retrieval import vectors

    settings.ADAPTRAG_EMBEDDING_CACHE_BYTES = 0
    texts: list[str] = []
    embed = vectors.embed_batches
    monkeypatch.setattr(vectors, "embed_batches", lambda model, new, threads: texts.extend(new) or embed(model, new, threads))
    collection.derived.all().delete()
    services.derived_refresh(collection, kinds=["child"])
    assert texts == []
    services.derived_refresh(collection, kinds=["sentence"])
    assert texts
    once = len(texts)
    services.document_add(
        collection=collection, name="dogs.txt", data=b"Dogs are kept on a leash here. Cats may do as they please."
    )
    texts.clear()
    services.derived_refresh(collection)
    assert 0 < len(texts) < once


def test_an_agent_whose_index_is_missing_says_so_and_has_it_made():
    collection = services.collection_get_or_create("harbour")
    services.document_add(collection=collection, name="ferries.txt", data=FERRIES.encode())
    with pytest.raises(IndexNotReady, match="'harbour' has no index of the kind 'sentence' yet"):
        retrieve(collection, "ferries", 3, around=AROUND["sentence"])
    options = {"chat_backend": "scripted", "chat_options": {"answer": "At six."}}
    variant = services.agent_register(name="windows", strategy="sentence_window_rag", **options)
    (job,) = Job.objects.filter(kind="derive")
    with pytest.raises(IndexNotReady) as failure:
        agent_answer(variant, AgentRequest(question="When do ferries leave?", collection=collection))
    assert failure.value.details["job"] == job.pk
    job_run(job.pk, here=True)
    answer = agent_answer(variant, AgentRequest(question="When do ferries leave?", collection=collection))
    assert answer.text == "At six."
    assert answer.sources[0]["matched"]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_with_nothing_ingested_no_model_is_asked(name):
    collection = services.collection_get_or_create("empty")
    options = {"chat_backend": "scripted", "chat_options": {"fail": "The model was asked."}}
    variant = services.agent_register(name="one", strategy=name, **options)
    with pytest.raises(NothingIngested):
        agent_answer(variant, AgentRequest(question="When?", collection=collection))


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"lora_rag", "quantized_rag"}))  # which need an artifact
def test_every_strategy_answers_from_real_indexes(collection, name):
    services.derived_refresh(collection, kinds=STRATEGIES[name].needs)
    options = {"chat_backend": "scripted", "chat_options": {"answer": "20 crowns."}}
    variant = services.agent_register(name="one", strategy=name, **options)
    question = "What do ships under ten metres pay a night?"
    answer = agent_answer(variant, AgentRequest(question=question, collection=collection, top_k=50))
    assert answer.text == "20 crowns."
    assert "Ships under ten metres pay 20 crowns" in " ".join(answer.passages[0].text.split())
    assert any(source["used"] for source in answer.sources)


def test_the_files_of_a_deleted_collection_go(collection):
    folder = Path(settings.DATA_DIR) / "derived" / str(collection.pk)
    assert folder.is_dir()
    collection.delete()
    assert not folder.exists()
