"""The trace on an interaction's page: each model call, each search, their times, and all that was noted."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from adaptrag.orchestrator import QueryRequest, query
from agents import services
from rewards.models import Interaction

pytestmark = pytest.mark.django_db(transaction=True)

HARBOUR = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen. She has kept the lamp since 1998. It turns once a minute."


@pytest.fixture
def page(operator_client):
    """Ask an agent of a strategy; returns its interaction's page as text, white space folded."""
    collection = services.collection_get_or_create("default")
    services.document_add(collection=collection, name="harbour.md", data=HARBOUR)
    services.derived_refresh(collection, kinds=["sentence", "child", "graph"])

    def ask(strategy, question, **options):
        parameters = options.pop("parameters", {})
        services.agent_register(
            name=strategy, strategy=strategy, chat_backend="scripted", chat_options={"answer": "A made-up text.", **options},
            parameters=parameters,
        )  # fmt: skip
        result = query(QueryRequest(question=question, agent=strategy))
        html = operator_client.get(reverse("admin:rewards_interaction_change", args=[result.interaction_id])).content.decode()
        trace = html[html.index("<h2>Trace") :]
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", trace)), trace

    return ask


def test_model_calls_and_searches_are_counted_and_told_one_by_one(page):
    text, html = page("hyde_rag", "Who keeps the lamp?")
    assert "2 model calls in" in text
    assert "1 search in" in text
    assert "chat hypothesis" in text
    assert "chat answer" in text
    assert "messages role content system" in text
    assert "Answer the question from the passages." in text
    assert f"⟨chunk {services.collection_get_or_create('default').documents.get().chunks.get().pk}⟩" in text
    assert "A made-up text." in text
    chunk = services.collection_get_or_create("default").documents.get().chunks.get()
    assert reverse("source", args=[chunk.pk]) in html


def test_sentences_that_were_found_are_shown(page):
    text, _ = page("sentence_window_rag", "Who is the lighthouse keeper?")
    assert "sentences, grown, hybrid" in text
    assert "matched" in text
    assert "The lighthouse keeper is Marta Olsen." in text


def test_grades_rewriting_and_a_skipped_search_are_shown(page):
    text, html = page("corrective_rag", "Which zeppelin crossed Antarctica?")
    assert "1 bad" in text
    assert 'grade-bad">bad' in html
    assert "zeppelin crossed antarctica" in text
    assert "No external search is configured." in text
    assert "weak evidence" in text


def test_a_call_that_failed_says_why(operator_client, page):
    with pytest.raises(Exception, match="does not answer"):
        page("naive_rag", "Who?", fail="unavailable")
    interaction = Interaction.objects.get()
    html = operator_client.get(reverse("admin:rewards_interaction_change", args=[interaction.pk])).content.decode()
    assert re.search(r'class="ar-text ar-bad ar-trace-sum">[^<]*does not answer', html)


def test_whatever_was_noted_is_shown_and_escaped(operator_client, page):
    page("hybrid_rag", "Who?")
    interaction = Interaction.objects.get()
    odd = "<script>alert(1)</script>"
    interaction.trace = [
        {"step": "odd", "at_ms": 1, "ms": 2, "flag": True, "none": None, "list": [1, odd], "deep": {"a": {"b": odd}}},
        {
            "step": "retrieve",
            "found": [{"chunk": "x", "url": "javascript:alert(1)", "scores": {"a": 1.23456}}, {"other": [odd]}],
        },
        {},
    ]
    interaction.save()
    html = operator_client.get(reverse("admin:rewards_interaction_change", args=[interaction.pk])).content.decode()
    assert "alert(1)</script>" not in html
    assert 'href="javascript' not in html
    assert "a 1.235" in html
