"""Whatever is sent, the answer is an error in one form, with the right status, and nothing is left behind."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from adaptrag.api.streaming import Events, _answer
from adaptrag.orchestrator import QueryRequest
from agents.models import Collection
from agents.services import agent_set_enabled
from rewards.models import Interaction, Reward
from rewards.services import category_pin
from tests.api.conftest import Api, scripted

QUESTION = "Who keeps the lighthouse?"


def assert_error(response, status, code=None):
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["message"]
    assert isinstance(error["details"], dict)
    if code:
        assert error["code"] == code
    return error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"question": ""}, "empty"),
        ({"question": " \n\t "}, "empty"),
        ({"question": "x" * 100_000}, "100,000 characters; at most 8,000"),
        ({"question": 5}, "must be text"),
        ({"question": None}, "must be text"),
        ({"question": ["a"]}, "must be text"),
        ({"question": "a\x00b"}, "NUL"),
        ({}, "question"),
        ([], "JSON object"),
        ("text", "JSON object"),
        (None, "JSON object"),
        ({"question": QUESTION, "top_k": 0}, "top_k"),
        ({"question": QUESTION, "top_k": 51}, "top_k"),
        ({"question": QUESTION, "top_k": "5"}, "whole number"),
        ({"question": QUESTION, "top_k": True}, "whole number"),
        ({"question": QUESTION, "top_k": 1.5}, "whole number"),
        ({"question": QUESTION, "top_k": 10**400}, "top_k"),
        ({"question": QUESTION, "session": "s" * 101}, "session"),
        ({"question": QUESTION, "session": 7}, "session"),
        ({"question": QUESTION, "category": "poetic"}, "factual"),
        ({"question": QUESTION, "colection": "typo"}, "Unknown field"),
        ({"question": QUESTION, "messages": "hello"}, "messages"),
        ({"question": QUESTION, "messages": [5]}, r"messages\[0\]"),
        ({"question": QUESTION, "messages": [{"role": "system", "content": "x"}]}, r"messages\[0\].role"),
        ({"question": QUESTION, "messages": [{"role": "user"}]}, r"messages\[0\].content"),
        ({"question": QUESTION, "messages": [{"role": "user", "content": {"a": 1}}]}, r"messages\[0\].content"),
        ({"question": QUESTION, "messages": [{"role": "user", "content": "x"}] * 51}, "messages"),
        ({"question": QUESTION, "messages": [{"role": "user", "content": "x" * 15_000}] * 8}, "120,000 characters"),
    ],
)
def test_a_malformed_question_is_named(api, agents, body, words):
    error = assert_error(api.send("/api/query", body), 400)
    assert __import__("re").search(words, error["message"]), error
    assert not Interaction.objects.exists()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "question"),
        (b"{", "not JSON"),
        (b'{"question": "\xff\xfe"}', "not UTF-8"),
        ('{"question": "träumt"}'.encode("latin-1"), "not UTF-8"),
        (b'{"question": "x", "top_k": NaN}', "NaN"),
        (b'{"question": "x", "top_k": -Infinity}', "Infinity"),
        (b'{"question": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 50_000, "nested"),
        (b'{"question": "x"} trailing', "not JSON"),
        (b'{"question": "x", "top_k": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_body_that_is_no_json_is_refused(api, agents, raw, words):
    assert words in assert_error(api.send("/api/query", raw), 400)["message"]


def test_a_body_that_is_too_large_is_refused(api, agents, settings):
    body = json.dumps({"question": "x" * settings.ADAPTRAG_MAX_BODY_BYTES}).encode()
    assert_error(api.send("/api/query", body), 413, "too_large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_another_content_type_is_refused(api, agents, content_type):
    assert_error(api.send("/api/query", b"question=x", content_type=content_type), 415, "unsupported_media_type")


def test_an_unknown_agent_is_answered_with_those_there_are(api, agents):
    error = assert_error(api.send("/api/query/three", {"question": QUESTION}), 404, "unknown_agent")
    assert "one, two" in error["message"]
    assert_error(api.send("/api/compare", {"question": QUESTION, "agents": ["one", "three"]}), 404, "unknown_agent")


def test_an_unknown_collection_is_not_found(api, agents):
    assert_error(api.send("/api/query", {"question": QUESTION, "collection": "secret"}), 404, "unknown_collection")


@pytest.mark.parametrize("agents_asked", [[], "one", ["one"] * 11, [5], None])
def test_a_comparison_needs_a_list_of_agents(api, agents, agents_asked):
    assert_error(api.send("/api/compare", {"question": QUESTION, "agents": agents_asked}), 400)


@pytest.mark.parametrize("reward", [2, -1, 1.0001, "good", "0.5", "NaN", None, True, [1], {}])
def test_a_reward_outside_the_unit_interval_is_refused(api, agents, reward):
    asked = api.send("/api/query", {"question": QUESTION}).json()
    response = api.send("/api/feedback", {"interaction_id": asked["interaction_id"], "reward": reward})
    assert_error(response, 400, "invalid_reward")
    assert not Reward.objects.exists()


@pytest.mark.parametrize("reward", [b"NaN", b"Infinity", b"1e999"])
def test_a_reward_that_is_no_finite_number_is_refused(api, agents, reward):
    body = b'{"interaction_id": "0190d0a0-0000-7000-8000-000000000000", "reward": ' + reward + b"}"
    assert_error(api.send("/api/feedback", body), 400)


@pytest.mark.parametrize("interaction", ["0190d0a0-0000-7000-8000-000000000000", "17", "no-uuid"])
def test_feedback_on_an_unknown_interaction_is_not_found(api, agents, interaction):
    assert_error(api.send("/api/feedback", {"interaction_id": interaction, "reward": 1}), 404, "unknown_interaction")


@pytest.mark.parametrize("path", ["/api/", "/api/nonesuch", "/api/query/", "/api/documents/x"])
def test_an_unknown_address_is_answered_in_the_same_form(api, path):
    assert_error(api.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/api/nonesuch", "/api/documents/null", "/api/documents/99999999999999999999999"])
def test_an_address_that_is_not_there_says_so_whatever_the_method(operator_api, path):
    operator_api.handler.enforce_csrf_checks = True
    assert_error(operator_api.delete(path), 404)


@pytest.mark.parametrize("path", ["/api/query", "/api/feedback", "/api/rl/reset", "/api/compare"])
def test_a_method_that_is_not_there_is_refused_and_those_that_are_get_named(api, path):
    response = api.get(path)
    assert_error(response, 405, "method_not_allowed")
    assert "POST" in response["Allow"]


def test_an_unexpected_failure_says_nothing_of_its_cause_and_is_logged(api, agents, monkeypatch, caplog):
    def broken(*args, **options):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("adaptrag.orchestrator.query", broken)
    response = api.send("/api/query", {"question": QUESTION})
    error = assert_error(response, 500, "internal_error")
    assert "hunter2" not in response.content.decode()
    assert error["details"]["request_id"] == response["X-Request-ID"]
    assert any("hunter2" in str(record.exc_info) for record in caplog.records)


REFUSED = {"off": "no_candidates", "pinned": "pinned_unavailable", "empty": "nothing_ingested"}


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("refused", "code"), REFUSED.items(), ids=REFUSED)
def test_a_question_that_no_agent_gets_is_logged_for_the_operator(api, agents, caplog, monkeypatch, refused, code, streams):
    if refused == "pinned":
        category_pin(category="factual", agent_name="two")
    if refused == "empty":
        Collection.objects.all().delete()
    for agent in agents[0 if refused == "off" else 1 :]:
        agent_set_enabled(agent, False)
    if streams:
        monkeypatch.setattr("adaptrag.api.streaming.close_old_connections", lambda: None)  # it would close the test's own
        events = []
        _answer(QueryRequest(question=QUESTION, category="factual"), Events(), events.append, lambda: None)
        assert f'"{code}"' in events[-1].decode()
    else:
        assert_error(api.send("/api/query", {"question": QUESTION, "category": "factual"}), 409, code)
    assert [message.partition(":")[0] for name, _, message in caplog.record_tuples if name == "adaptrag.refusals"] == [code]
    assert not Interaction.objects.exists()


def test_a_refused_upload_is_logged_with_its_file_and_why(operator_api, library, caplog):
    assert operator_api.post("/api/documents", {"file": SimpleUploadedFile("cut.pdf", b"%PDF-1.7\n1 0 obj")}).status_code == 422
    assert "document_rejected: cut.pdf " in caplog.text


def test_what_a_caller_alone_can_put_right_is_no_warning(api, agents, caplog):
    api.send("/api/query", {"question": ""})
    api.send("/api/query/three", {"question": QUESTION})
    assert not [name for name, _, _ in caplog.record_tuples if name == "adaptrag.refusals"]


@pytest.mark.parametrize("fields", [{}, {"collection": "default"}])
def test_a_site_without_any_collection_says_that_nothing_is_ingested(db, api, fields):
    scripted("one")
    for path in ("/api/query", "/api/query?stream=1", "/api/query/one"):
        error = assert_error(api.send(path, {"question": QUESTION, **fields}), 409, "nothing_ingested")
        assert "manage.py ingest" in error["message"]
    asked = {"question": QUESTION, "agents": ["one"], **fields}
    assert_error(api.send("/api/compare", asked), 409, "nothing_ingested")
    assert not Interaction.objects.exists() and not Collection.objects.exists()


def test_a_foreign_host_is_refused_in_the_same_form(api, settings):
    settings.ALLOWED_HOSTS = ["testserver"]
    assert_error(api.get("/api/agents", headers={"host": "evil.example"}), 400, "bad_request")


def test_pages_for_people_keep_their_own_error_pages(db):
    response = Api().get("/no/such/page")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
