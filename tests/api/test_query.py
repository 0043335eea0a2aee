"""POST /api/query, /api/query/{agent}, /api/compare; GET /api/interactions/{id}."""

import pytest

from rewards.models import Interaction
from tests.api.conftest import Api, scripted

QUESTION = {"question": "Who keeps the lighthouse?"}


def test_a_question_is_answered_with_its_agent_sources_and_routing(api, agents, user):
    response = api.send("/api/query", QUESTION)
    body = response.json()
    assert response.status_code == 200, body
    assert set(body) >= {"interaction_id", "answer", "agent", "category", "sources", "routing", "usage", "latency_ms"}
    assert set(body["routing"]) >= {"policy", "mode", "propensity", "candidates"}
    assert (body["answer"], body["routing"]["mode"]) == ("Marta Olsen.", "bandit")
    assert "Marta Olsen" in body["sources"][0]["text"]
    row = Interaction.objects.get(pk=body["interaction_id"])
    assert (row.asked_by, row.variant.name, row.top_k) == (user, body["agent"], 5)


def test_an_agent_can_be_forced_by_the_address_or_the_body(api, agents):
    for path, body in (("/api/query/two", QUESTION), ("/api/query", QUESTION | {"agent": "two"})):
        answer = api.send(path, body).json()
        assert (answer["agent"], answer["routing"]["mode"]) == ("two", "manual_override")


def test_two_different_agents_in_one_request_are_refused(api, agents):
    response = api.send("/api/query/two", QUESTION | {"agent": "one"})
    assert response.status_code == 400
    assert "'one'" in response.json()["error"]["message"]


def test_earlier_turns_session_and_top_k_reach_the_log(api, agents):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]
    body = api.send("/api/query", QUESTION | {"messages": turns, "session": "s1", "top_k": 1, "category": "procedural"}).json()
    row = Interaction.objects.get(pk=body["interaction_id"])
    assert (row.messages, row.session, row.top_k, row.category) == (turns, "s1", 1, "procedural")
    assert len(body["sources"]) == 1


def test_the_longest_answer_fits_into_the_next_question(api, agents):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "word " * 8_192}]
    response = api.send("/api/query", QUESTION | {"messages": turns})
    assert response.status_code == 200, response.json()


def test_comparing_gives_each_agents_answer_with_its_own_interaction(api, agents):
    body = api.send("/api/compare", QUESTION | {"agents": ["two", "one"]}).json()
    assert [result["agent"] for result in body["results"]] == ["two", "one"]
    assert len({result["interaction_id"] for result in body["results"]}) == 2
    assert set(Interaction.objects.values_list("mode", flat=True)) == {"compare"}


def test_comparing_goes_on_when_one_agent_fails_and_says_so_when_all_do(api, agents):
    scripted("down", fail="unavailable")
    results = api.send("/api/compare", QUESTION | {"agents": ["one", "down"]}).json()["results"]
    assert "error" not in results[0]
    assert results[1]["error"]["code"] == "chat_model_unavailable"
    response = api.send("/api/compare", QUESTION | {"agents": ["down"]})
    assert response.status_code == 503
    assert response.json()["error"]["details"]["results"][0]["agent"] == "down"


@pytest.mark.parametrize(("failure", "status", "code"), [
    ("unavailable", 503, "chat_model_unavailable"), ("timeout", 504, "chat_model_timeout"),
])  # fmt: skip
def test_a_model_that_is_down_or_slow_is_an_error_that_the_operator_can_find(api, library, failure, status, code):
    scripted("broken", fail=failure)
    response = api.send("/api/query", QUESTION)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    row = Interaction.objects.get(pk=error["details"]["interaction_id"])
    assert (row.state, row.error["code"]) == ("failed", code)


def test_a_model_that_steps_in_is_named(api, library):
    scripted("broken", fail="unavailable", fallback={"backend": "scripted", "model": "spare", "options": {"answer": "Marta."}})
    body = api.send("/api/query", QUESTION).json()
    assert body["answer"] == "Marta."
    assert "spare" in body["fallback"]["to"]


def test_a_question_to_an_empty_collection_says_what_to_do(api, agents, operator_api):
    operator_api.delete(f"/api/documents/{operator_api.get('/api/documents').json()['results'][0]['id']}")
    response = api.send("/api/query", QUESTION)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "nothing_ingested")


def test_who_asked_and_operators_can_look_an_interaction_up_others_can_not(api, agents, operator_api, django_user_model):
    from adaptrag.api.services import key_create

    asked = api.send("/api/query", QUESTION).json()
    api.send("/api/feedback", {"interaction_id": asked["interaction_id"], "reward": 0.5, "comment": "so so"})
    path = f"/api/interactions/{asked['interaction_id']}"
    seen = api.get(path).json()
    assert (seen["answer"], seen["sources"], seen["routing"]) == (asked["answer"], asked["sources"], asked["routing"])
    assert [(rating["reward"], rating["comment"]) for rating in seen["rewards"]] == [(0.5, "so so")]
    assert "messages" not in seen["trace"][-1]  # they hold the agent's instructions
    assert operator_api.get(path).json()["trace"][-1]["messages"][0]["role"] == "system"
    stranger = Api(key_create(user=django_user_model.objects.create_user("eve"), name="", scope="query")[1])
    assert stranger.get(path).status_code == 404
    assert api.get("/api/interactions/nonsense").status_code == 404
