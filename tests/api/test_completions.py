"""POST /v1/chat/completions and GET /v1/models, as OpenAI's own client sees them."""

import httpx2
import openai
import pytest

from adaptrag.api.services import key_create
from agents.services import agent_register, collection_get_or_create, document_add
from rewards.models import Interaction, Reward
from tests.api.conftest import Api, scripted

ASK = [{"role": "user", "content": "Who keeps the lighthouse?"}]


def client_of(api):
    """OpenAI's client, its requests carried to this process's views."""

    def carried(request):
        headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
        answer = api.generic(
            request.method, request.url.path, request.content, content_type=request.headers.get("Content-Type", ""), **headers
        )
        return httpx2.Response(answer.status_code, headers=dict(answer.items()), content=answer.content)

    key = api.defaults["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
    http = httpx2.Client(transport=httpx2.MockTransport(carried))
    return openai.OpenAI(api_key=key, base_url="http://localhost/v1", max_retries=0, http_client=http)


@pytest.fixture
def client(api, agents):
    return client_of(api)


def test_auto_lets_the_bandit_route_and_the_answer_carries_its_sources(client, user):
    got = client.chat.completions.create(model="auto", messages=ASK)
    row = Interaction.objects.get(pk=got.id)
    assert got.choices[0].message.content == "Marta Olsen."
    assert (got.choices[0].finish_reason, got.model) == ("stop", row.variant.name)
    assert (row.mode, row.asked_by) == ("bandit", user)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert "Marta Olsen" in got.adaptrag["sources"][0]["text"]
    assert got.adaptrag["routing"]["propensity"] == row.propensity


def test_an_agents_name_forces_it(client):
    got = client.chat.completions.create(model="two", messages=ASK)
    assert (got.model, got.adaptrag["routing"]["mode"]) == ("two", "manual_override")


def test_the_completions_id_takes_feedback(client, api):
    got = client.chat.completions.create(model="two", messages=ASK)
    response = api.send("/api/feedback", {"interaction_id": got.id, "reward": 1})
    assert response.status_code == 201, response.content
    assert response.json()["arm"]["agent"] == "two"
    assert Reward.objects.get().interaction_id == Interaction.objects.get().pk


def test_earlier_messages_are_the_conversation_and_system_messages_are_told_to_be_left_aside(client):
    first = client.chat.completions.create(model="auto", messages=ASK)
    turns = [
        {"role": "system", "content": "You are a pirate."}, *ASK, first.choices[0].message,
        {"role": "user", "content": [{"type": "text", "text": "And the ferries?"}]},
    ]  # fmt: skip
    got = client.chat.completions.create(
        model="auto", messages=turns, user="ada-1", temperature=0.3, seed=7, metadata={"top_k": "1", "team": "blue"}
    )
    row = Interaction.objects.get(pk=got.id)
    assert (row.question, row.session, row.top_k) == ("And the ferries?", "ada-1", 1)
    assert [turn["role"] for turn in row.messages] == ["user", "assistant"]
    assert set(got.adaptrag["ignored"]) == {"temperature", "seed", "messages[0]", "metadata.team"}


def test_metadata_names_session_and_collection(client):
    document_add(collection=collection_get_or_create("inland"), name="a.md", data=b"# Mill\n\nThe miller is Ole.\n")
    got = client.chat.completions.create(
        model="one", messages=ASK, user="u", metadata={"collection": "inland", "session": "s", "category": "procedural"}
    )
    row = Interaction.objects.get(pk=got.id)
    assert (row.collection.name, row.session, row.category) == ("inland", "s", "procedural")
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="one", messages=ASK, metadata={"collection": "nowhere"})
    assert error.value.code == "unknown_collection"


def test_a_key_that_sees_one_collection_asks_that_one(agents, user):
    inland = collection_get_or_create("inland")
    document_add(collection=inland, name="a.md", data=b"# Mill\n\nThe miller keeps no lighthouse.\n")
    limited = client_of(Api(key_create(user=user, name="limited", scope="query", collections=[inland])[1]))
    got = limited.chat.completions.create(model="auto", messages=ASK)
    assert Interaction.objects.get(pk=got.id).collection == inland
    with pytest.raises(openai.NotFoundError):
        limited.chat.completions.create(model="auto", messages=ASK, metadata={"collection": "default"})


@pytest.mark.parametrize(("more", "param"), [
    ({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"stop": ["\n"]}, "stop"), ({"temperature": 3}, "temperature"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"stream_options": {"include_usage": True}}, "stream_options"), ({"extra_body": {"colour": "red"}}, "colour"),
    ({"messages": []}, "messages"), ({"messages": [{"role": "assistant", "content": "Hello"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"metadata": {"top_k": "many"}}, "metadata"), ({"metadata": {"category": "odd"}}, "metadata"),
])  # fmt: skip
def test_what_is_not_supported_is_refused_with_its_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": "auto", "messages": ASK} | more)
    assert (error.value.param, error.value.type) == (param, "invalid_request_error")
    assert not Interaction.objects.exists()


@pytest.mark.parametrize("more", [
    {"n": 1}, {"tools": []}, {"logprobs": False}, {"response_format": {"type": "text"}}, {"stop": None}, {"metadata": None},
])  # fmt: skip
def test_values_that_ask_for_nothing_are_taken(client, more):
    assert client.chat.completions.create(**{"model": "auto", "messages": ASK} | more).adaptrag["ignored"] == []


def test_errors_raise_the_clients_own_classes(client, agents, settings):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=ASK)
    assert (error.value.code, error.value.param) == ("unknown_agent", "model")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="ar_wrong").chat.completions.create(model="auto", messages=ASK)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="auto", input="x")
    settings.ADAPTRAG_THROTTLES = settings.ADAPTRAG_THROTTLES | {"key": "1/min"}
    with pytest.raises(openai.RateLimitError) as error:
        for _ in range(3):
            client.chat.completions.create(model="auto", messages=ASK)
    assert error.value.type == "rate_limit_error"
    assert int(error.value.response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("GET", "/v1/nonesuch", None, 404), ("GET", "/v1/chat/completions", None, 405), ("POST", "/v1/chat/completions", "{", 400),
])  # fmt: skip
def test_whatever_is_wrong_under_v1_has_openais_form(api, agents, method, path, body, status):
    answer = api.generic(method, path, body or "", content_type="application/json")
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code", "details"}


def test_a_model_that_is_down_says_which_interaction_to_look_at(api, library):
    scripted("broken", fail="unavailable")
    with pytest.raises(openai.InternalServerError) as error:
        client_of(api).chat.completions.create(model="auto", messages=ASK)
    assert error.value.type == "server_error"
    assert Interaction.objects.get(pk=error.value.body["details"]["interaction_id"]).state == "failed"


def test_models_are_auto_and_the_agents_that_take_questions(client):
    agent_register(name="resting", strategy="naive_rag", chat_backend="scripted", enabled=False)
    assert [model.id for model in client.models.list()] == ["auto", "one", "two"]
    assert (client.models.retrieve("auto").id, client.models.retrieve("two").owned_by) == ("auto", "adaptrag")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("resting")


# Over a real server: streams ---------------------------------------------------------------------------------------------


def over_http(server):
    return openai.OpenAI(api_key=server.key, base_url=f"{server.url}/v1", max_retries=0)


@pytest.mark.slow
def test_a_stream_is_told_as_it_is_made_and_ends_with_sources_and_usage(server):
    client = over_http(server)
    whole = client.chat.completions.create(model="slow", messages=ASK)
    chunks = list(
        client.chat.completions.create(model="slow", messages=ASK, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    *_, end, usage = chunks
    assert (end.choices[0].finish_reason, end.model) == ("stop", "slow")
    assert end.adaptrag["sources"][0]["document"] == "Harbour"
    assert (usage.choices, usage.usage.total_tokens) == ([], whole.usage.total_tokens)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id != whole.id


@pytest.mark.slow
def test_a_stream_that_fails_raises_and_one_that_can_t_begin_has_its_status(server):
    client = over_http(server)
    with pytest.raises(openai.APIError, match="does not answer") as error:
        list(client.chat.completions.create(model="down", messages=ASK, stream=True))
    assert error.value.code == "chat_model_unavailable"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=ASK, stream=True)


@pytest.mark.slow
def test_the_raw_stream_ends_with_done_and_without_options_tells_no_usage(server):
    with over_http(server).chat.completions.with_streaming_response.create(model="auto", messages=ASK, stream=True) as raw:
        assert raw.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert not any('"usage"' in line for line in lines)
