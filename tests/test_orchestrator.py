"""Routing, answering and logging meet: what a caller gets is what the row says."""

import pytest

from adaptrag.common.errors import InvalidInput
from adaptrag.orchestrator import CompareRequest, QueryRequest, compare, query
from agents.errors import ChatModelUnavailable, NothingIngested, UnknownAgent, UnknownCollection
from agents.llm.base import Message
from agents.models import AgentVariant
from agents.services import agent_register, agent_set_enabled, collection_get_or_create, derived_refresh, document_add
from rewards.errors import NoCandidates
from rewards.models import Interaction

TEXT = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen.\n\n# Ferries\n\nFerries leave at six in the morning.\n"


def scripted(name, answer="Marta Olsen.", strategy="naive_rag", **options):
    return agent_register(
        name=name,
        strategy=strategy,
        chat_backend="scripted",
        chat_options={"answer": answer, **options},
        parameters={"retriever": "bm25"} if strategy == "naive_rag" else {},
    )


@pytest.fixture
def library(db):
    collection = collection_get_or_create("default")
    document_add(collection=collection, name="harbour.md", data=TEXT)
    return collection


def test_an_answer_is_routed_and_logged_as_it_is_returned(library):
    scripted("one"), scripted("two")
    routed, pieces = [], []
    result = query(QueryRequest(question=" Who keeps the lighthouse? "), on_routed=routed.append, on_text=pieces.append)
    row = Interaction.objects.get(pk=result.interaction_id)
    assert result.answer == row.answer == "".join(pieces) == "Marta Olsen."
    assert (row.question, row.state, row.mode, row.category) == ("Who keeps the lighthouse?", "answered", "bandit", "factual")
    assert result.sources == row.sources
    assert "Marta Olsen" in row.sources[0]["text"]
    assert row.sources[0]["used"] is True
    assert routed[0]["interaction_id"] == str(result.interaction_id)
    assert routed[0]["routing"] == result.routing
    assert result.routing["propensity"] == row.propensity
    candidates = {candidate["agent"]: candidate["probability"] for candidate in row.candidates}
    assert set(candidates) == {"one", "two"}
    assert sum(candidates.values()) == pytest.approx(1)
    assert candidates[result.agent] == row.propensity
    assert row.policy and row.policy_revision and row.seed is not None
    assert row.latency_ms == pytest.approx(result.latency_ms)


def test_a_forced_agent_is_marked_and_has_no_propensity(library):
    scripted("one"), scripted("two")
    result = query(QueryRequest(question="Who keeps the lighthouse?", agent="two"))
    row = Interaction.objects.get(pk=result.interaction_id)
    assert (result.agent, row.mode, row.propensity, row.candidates) == ("two", "manual_override", None, [])
    assert result.routing["mode"] == "manual_override"


def test_a_failed_answer_is_logged_and_raised_with_its_interaction(library):
    scripted("one", fail="unavailable")
    with pytest.raises(ChatModelUnavailable) as caught:
        query(QueryRequest(question="Who keeps the lighthouse?"))
    row = Interaction.objects.get(pk=caught.value.details["interaction_id"])
    assert (row.state, row.error["code"], row.answer) == ("failed", "chat_model_unavailable", "")
    assert [step["step"] for step in row.trace] == ["retrieve", "chat"]
    assert row.propensity is not None


def test_a_model_that_steps_in_is_named_in_the_answer_and_the_row(library):
    scripted("one", fail="unavailable", fallback={"backend": "scripted", "model": "spare", "options": {"answer": "Marta."}})
    result = query(QueryRequest(question="Who keeps the lighthouse?"))
    row = Interaction.objects.get(pk=result.interaction_id)
    assert result.answer == "Marta."
    assert result.fallback == row.fallback
    assert row.fallback["reason"]
    assert "spare" in row.fallback["to"]


def test_nothing_ingested_is_said_and_logged(db):
    collection_get_or_create("default")
    scripted("one")
    with pytest.raises(NothingIngested):
        query(QueryRequest(question="Who keeps the lighthouse?"))
    assert Interaction.objects.get().error["code"] == "nothing_ingested"


def test_an_agent_takes_part_once_the_collection_has_what_it_searches(library):
    scripted("one")
    scripted("windows", strategy="sentence_window_rag")
    asked = [query(QueryRequest(question="Who keeps the lighthouse?")) for _ in range(5)]
    assert {result.agent for result in asked} == {"one"}
    assert [one["probability"] for one in asked[0].routing["candidates"]] == [1.0]
    derived_refresh(collection_get_or_create("default"))
    routing = query(QueryRequest(question="Who keeps the lighthouse?")).routing
    assert {one["agent"] for one in routing["candidates"]} == {"one", "windows"}


def test_no_enabled_agent_is_said(library):
    agent_set_enabled(scripted("one"), False)
    with pytest.raises(NoCandidates):
        query(QueryRequest(question="Who keeps the lighthouse?"))
    with pytest.raises(UnknownAgent, match="'one' is switched off"):
        query(QueryRequest(question="Who keeps the lighthouse?", agent="one"))
    with pytest.raises(UnknownAgent, match="'three' does not exist"):
        query(QueryRequest(question="Who keeps the lighthouse?", agent="three"))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("x" * 100_000, "100,000 characters"),
        (7, "must be text"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_question_that_is_none_is_refused_before_anything_is_written(library, question, words):
    scripted("one")
    with pytest.raises(InvalidInput, match=words):
        query(QueryRequest(question=question))
    assert not Interaction.objects.exists()


@pytest.mark.parametrize("values", [{"top_k": 0}, {"top_k": 51}, {"top_k": True}, {"top_k": "3"}, {"category": "funny"}])
def test_wrong_values_are_named(library, values):
    scripted("one")
    with pytest.raises(InvalidInput, match=repr(next(iter(values.values())))):
        query(QueryRequest(question="Who?", **values))


def test_a_key_sees_no_collection_but_its_own(library):
    collection_get_or_create("secret")
    scripted("one")
    visible = frozenset({"default"})
    with pytest.raises(UnknownCollection) as hidden:
        query(QueryRequest(question="Who?", collection="secret", collections=visible))
    with pytest.raises(UnknownCollection) as absent:
        query(QueryRequest(question="Who?", collection="nowhere", collections=visible))
    assert str(hidden.value).replace("secret", "nowhere") == str(absent.value)


def test_the_conversation_is_kept_with_the_interaction(library):
    scripted("one")
    messages = (Message(role="user", content="Who keeps the lighthouse?"), Message(role="assistant", content="Marta Olsen."))
    result = query(QueryRequest(question="When do they leave?", messages=messages, session="s-1"))
    row = Interaction.objects.get(pk=result.interaction_id)
    assert row.messages == [message.as_dict() for message in messages]
    assert row.session == "s-1"


def test_compare_answers_side_by_side_and_one_failure_stays_alone(library):
    scripted("one"), scripted("two", fail="unavailable"), scripted("three", answer="Olsen.")
    results = compare(CompareRequest(question="Who keeps the lighthouse?", agents=("three", "two", "one")))
    assert [result.agent for result in results] == ["three", "two", "one"]
    assert [result.answer for result in results] == ["Olsen.", "", "Marta Olsen."]
    assert results[1].error["code"] == "chat_model_unavailable"
    assert {row.mode for row in Interaction.objects.all()} == {"compare"}
    assert {str(row.pk) for row in Interaction.objects.all()} == {str(result.interaction_id) for result in results}


@pytest.mark.django_db(transaction=True)
def test_compare_answers_in_parallel(transactional_db):
    collection = collection_get_or_create("default")
    document_add(collection=collection, name="harbour.md", data=TEXT)
    for name in ("one", "two", "three"):
        scripted(name, delay=1.0)
    results = compare(CompareRequest(question="Who keeps the lighthouse?", agents=("one", "two", "three")))
    assert [result.error for result in results] == [None] * 3
    times = sorted(Interaction.objects.values_list("created_at", flat=True))
    # Begun together: the last starts before the first, which takes a second, can have ended.
    assert (times[-1] - times[0]).total_seconds() < 1.0


def test_compare_refuses_none_too_many_and_unknown(library):
    scripted("one")
    with pytest.raises(InvalidInput, match="not 0"):
        compare(CompareRequest(question="Who?", agents=()))
    with pytest.raises(UnknownAgent):
        compare(CompareRequest(question="Who?", agents=("one", "nobody")))
    assert not Interaction.objects.exists()


def test_a_retired_revision_answers_no_more(library):
    from agents.services import agent_revise

    first = scripted("one")
    second = agent_revise(first, chat_options={"answer": "Someone else."})
    result = query(QueryRequest(question="Who keeps the lighthouse?"))
    assert (result.revision, result.answer) == (2, "Someone else.")
    first.refresh_from_db()
    assert first.state == AgentVariant.State.RETIRED
    assert second.predecessor == first
