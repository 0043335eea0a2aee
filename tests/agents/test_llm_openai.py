"""The OpenAI-compatible backend against a real server on loopback, well-behaved and not."""

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from adaptrag.common.errors import InvalidInput
from agents.errors import ChatModelOverloaded, ChatModelTimeout, ChatModelUnavailable, PromptTooLong
from agents.llm.base import Message, Usage
from agents.llm.openai_compatible import OpenAICompatibleChatModel
from tests.agents.faulty_server import answer, cut, delta, failing, hanging, send, serving, stream

QUESTION = [Message(role="system", content="Be short."), Message(role="user", content="Capital of France?")]


@pytest.fixture
def server():
    with serving() as server:
        yield server


def model(server, **options):
    return OpenAICompatibleChatModel("tiny", {"base_url": server.url, "timeout": 10, **options})


def streamed(chat):
    pieces = []
    return chat.complete(QUESTION, on_text=pieces.append), pieces


def test_a_whole_answer_with_usage_and_cost(server):
    chat = model(server, price_prompt_per_million=2, price_completion_per_million=10)
    completion = chat.complete(QUESTION)
    assert (completion.text, completion.model, completion.finish_reason) == ("Paris.", "tiny-1", "stop")
    assert completion.usage == Usage(prompt_tokens=11, completion_tokens=3, cost_usd=pytest.approx(52e-6))


def test_a_streamed_answer_is_the_same_piece_by_piece(server):
    completion, pieces = streamed(model(server, price_prompt_per_million=2, price_completion_per_million=10))
    assert pieces == list("Paris.")
    assert completion == model(server, price_prompt_per_million=2, price_completion_per_million=10).complete(QUESTION)


def test_the_request_holds_what_was_asked_and_nothing_else(server):
    model(server, temperature=0.7, max_tokens=9).complete(QUESTION, max_tokens=5, stop=["\n"])
    assert server.requests == [
        {"model": "tiny", "messages": [m.as_dict() for m in QUESTION], "max_tokens": 5, "temperature": 0.7, "stop": ["\n"]}
    ]


def test_usage_that_was_not_counted_is_zero_not_guessed(server):
    server.behaviours = [answer("Paris.", usage=None)]
    assert model(server).complete(QUESTION).usage == Usage()
    assert streamed(model(server))[0].usage == Usage()


def test_an_answer_cut_by_its_length_says_so(server):
    server.behaviours = [answer("Par", reason="length")]
    assert model(server).complete(QUESTION).finish_reason == "length"
    assert streamed(model(server))[0].finish_reason == "length"


def test_the_key_comes_from_the_environment_variable_that_is_named(server, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "sk-1")
    model(server, api_key_env="OTHER_API_KEY").complete(QUESTION)
    assert server.keys == ["Bearer sk-1"]


def test_a_named_key_that_is_not_set_is_an_error_before_any_request(server, monkeypatch):
    monkeypatch.delenv("ABSENT_API_KEY", raising=False)
    with pytest.raises(ChatModelUnavailable, match="set the environment variable ABSENT_API_KEY"):
        model(server, api_key_env="ABSENT_API_KEY").complete(QUESTION)
    assert server.requests == []


def test_the_base_url_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAICompatibleChatModel("tiny", {}).complete(QUESTION).text == "Paris."


def test_a_model_without_a_name_is_refused():
    with pytest.raises(InvalidInput, match="Name the model"):
        OpenAICompatibleChatModel("", {})


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(server, status):
    server.behaviours = [failing(status, retry_after="0"), answer("Paris.")]
    assert model(server).complete(QUESTION).text == "Paris."
    assert len(server.requests) == 2


def test_retry_after_is_waited_for(server):
    server.behaviours = [failing(429, retry_after="1"), answer("Paris.")]
    model(server).complete(QUESTION)
    assert 0.95 < server.times[1] - server.times[0] < 5


def test_retry_after_may_be_a_date_and_too_far_away(server):
    server.behaviours = [failing(429, retry_after=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))]
    began = time.monotonic()
    with pytest.raises(ChatModelUnavailable, match=r"come back in 3\d\d\d s \(status 429\)"):
        model(server).complete(QUESTION)
    assert time.monotonic() - began < 5 and len(server.requests) == 1


def test_pauses_grow_without_retry_after(server):
    server.behaviours = [failing(500)]
    with pytest.raises(ChatModelUnavailable, match="status 500: no"):
        model(server).complete(QUESTION)
    first, second = (server.times[place + 1] - server.times[place] for place in (0, 1))
    assert 0.37 < first < second


def test_retries_may_be_switched_off(server):
    server.behaviours = [failing(500)]
    with pytest.raises(ChatModelUnavailable):
        model(server, max_retries=0).complete(QUESTION)
    assert len(server.requests) == 1


@pytest.mark.parametrize("wait", ["0", "900"])
def test_a_model_process_at_its_limit_is_told_apart_from_one_that_is_down(server, wait):
    server.behaviours = [failing(503, "all at work", code="chat_model_overloaded", retry_after=wait)]
    with pytest.raises(ChatModelOverloaded, match="has no time: all at work"):
        model(server).complete(QUESTION)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_its_variable_and_is_not_tried_again(server, status):
    server.behaviours = [failing(status)]
    with pytest.raises(ChatModelUnavailable, match=r"refuses the key .* environment variable OPENAI_API_KEY"):
        model(server).complete(QUESTION)
    assert len(server.requests) == 1


def test_an_unknown_model_is_told(server):
    server.behaviours = [failing(404, "no model tiny")]
    with pytest.raises(ChatModelUnavailable, match="does not know the model: no model tiny"):
        model(server).complete(QUESTION)


def test_a_prompt_that_is_too_long_is_the_askers_error(server):
    server.behaviours = [failing(400, "too long", "context_length_exceeded")]
    with pytest.raises(PromptTooLong):
        model(server).complete(QUESTION)


@pytest.mark.parametrize("on_text", [None, lambda text: None])
def test_a_server_that_hangs_is_a_timeout_within_the_time(server, on_text):
    server.behaviours = [hanging(5)]
    began = time.monotonic()
    with pytest.raises(ChatModelTimeout, match=r"within 0\.4 s") as caught:
        model(server, timeout=0.4).complete(QUESTION, on_text=on_text)
    assert time.monotonic() - began < 3
    assert (caught.value.code, caught.value.status) == ("chat_model_timeout", 504)


def test_a_stream_that_drips_past_the_time_is_a_timeout(server):
    server.behaviours = [answer("x" * 200, pause=0.05)]
    with pytest.raises(ChatModelTimeout):
        streamed(model(server, timeout=0.5))


def test_time_spent_on_retries_counts(server):
    server.behaviours = [failing(503), hanging(5)]
    began = time.monotonic()
    with pytest.raises(ChatModelTimeout):
        model(server, timeout=1).complete(QUESTION)
    assert time.monotonic() - began < 4


def test_nothing_listens(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(ChatModelUnavailable, match="can't be reached") as caught:
            OpenAICompatibleChatModel("tiny", {"base_url": url, "max_retries": 1}).complete(QUESTION)
    assert (caught.value.code, caught.value.status) == ("chat_model_unavailable", 503)


@pytest.mark.parametrize("text", [None, "", "  \n"])
@pytest.mark.parametrize("ask", [lambda chat: chat.complete(QUESTION), streamed])
def test_no_answer_is_an_error(server, text, ask):
    server.behaviours = [answer(text)]
    with pytest.raises(ChatModelUnavailable, match="sent no answer"):
        ask(model(server))


def test_a_withheld_answer_is_an_error(server):
    server.behaviours = [answer("Par", reason="content_filter")]
    with pytest.raises(ChatModelUnavailable, match="content filter"):
        model(server).complete(QUESTION)


@pytest.mark.parametrize(
    "body", [b"<html>busy</html>", b"{", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'"Paris"', b"null"]
)
def test_a_body_that_is_no_completion_is_an_error(server, body):
    server.behaviours = [lambda handler, request: send(handler, 200, body)]
    with pytest.raises(ChatModelUnavailable):
        model(server).complete(QUESTION)


@pytest.mark.parametrize(
    "chunks",
    [
        [delta({"content": "Par"})],
        [delta({"content": "Par"}), b"data: {broken\n\n"],
        [delta({"content": "Par"}), {"error": {"message": "out of memory"}}],
        [delta({"content": "Par"}), b"data: [1, 2]\n\n"],
        [b"<html>busy</html>"],
    ],
)
def test_a_stream_that_breaks_is_an_error_however_it_ends(server, chunks):
    server.behaviours = [lambda handler, body: stream(handler, chunks)]
    with pytest.raises(ChatModelUnavailable):
        streamed(model(server))
    assert len(server.requests) == 1, "text was handed over: another try would say it twice"


def test_a_connection_that_breaks_in_mid_stream_is_an_error(server):
    server.behaviours = [cut]
    pieces = []
    with pytest.raises(ChatModelUnavailable, match="middle of its answer"):
        model(server).complete(QUESTION, on_text=pieces.append)
    assert pieces == ["Par"]


def test_an_asker_who_leaves_closes_the_stream(server):
    server.behaviours = [answer("x" * 500, pause=0.02)]

    def leave(text):
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        model(server).complete(QUESTION, on_text=leave)
    assert server.hung_up.wait(10)
