"""From an agent's row to its chat model: options, replacements, the scripted model, and what importing costs."""

import subprocess
import sys

import pytest

from adaptrag.common.errors import InvalidInput
from agents.errors import ChatModelTimeout, ChatModelUnavailable
from agents.llm.base import Message
from agents.llm.factory import OPTIONS, chat_model, validate_options
from tests.ops.site import ROOT

QUESTION = [Message(role="user", content="Capital of France?")]


def test_importing_the_factory_loads_no_heavy_library():
    code = (
        "import sys, agents.llm.factory; print([m for m in ('torch', 'transformers', 'openai', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_equal_rows_share_a_model():
    one = chat_model("scripted", "", {"answer": "A", "delay": 0})
    assert chat_model("scripted", "", {"delay": 0, "answer": "A"}) is one
    assert chat_model("scripted", "", {"answer": "B"}) is not one


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("lokal", {}, "Unknown chat backend 'lokal'; there are local, openai_compatible, scripted"),
        ("local", [], "must be a JSON object, not list"),
        ("local", {"base_url": "http://x"}, "Unknown option 'base_url' for local; it knows adapter, fallback, max_retries"),
        ("local", {"temperature": "hot"}, "'temperature' must be a number, not 'hot'"),
        ("local", {"max_tokens": True}, "'max_tokens' must be a whole number, not True"),
        ("local", {"timeout": -1}, "'timeout' must be 0 or more, not -1"),
        ("local", {"timeout": float("nan")}, "must be 0 or more, not nan"),
        ("openai_compatible", {"base_url": "localhost:8000"}, "base_url must begin with http"),
        ("openai_compatible", {"base_url": "file:///etc/passwd"}, "base_url must begin with http"),
        ("openai_compatible", {"api_key_env": "ADAPTRAG_SECRET_KEY"}, "api_key_env must name"),
        ("openai_compatible", {"api_key_env": "DATABASE_URL"}, "api_key_env must name"),
        ("local", {"fallback": {"model": "x"}}, "A fallback has backend, model and options"),
        ("local", {"fallback": {}}, "A fallback has backend, model and options"),
        ("local", {"fallback": {"backend": "scripted", "model": 1}}, "must be a name, not 1"),
        ("local", {"fallback": {"backend": "scripted", "options": {"x": 1}}}, "Unknown option 'x' for scripted"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(backend, options, message):
    with pytest.raises(InvalidInput) as caught:
        validate_options(backend, options)
    assert message in caught.value.message


def test_right_options_pass():
    validate_options(
        "openai_compatible", {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "MISTRAL_API_KEY", "timeout": 2.5}
    )
    for backend in OPTIONS:
        validate_options(
            backend, {"fallback": {"backend": "scripted", "options": {"answer": "x"}}, "price_prompt_per_million": 0.1}
        )


def _replaced(**primary):
    return chat_model(
        "scripted", "big", primary | {"fallback": {"backend": "scripted", "model": "small", "options": {"answer": "B c"}}}
    )


@pytest.mark.parametrize("fail", ["unavailable", "timeout"])
def test_a_replacement_answers_and_says_so(fail):
    pieces = []
    completion = _replaced(answer="A", fail=fail).complete(QUESTION, on_text=pieces.append)
    assert completion.text == "".join(pieces) == "B c"
    assert completion.model == "scripted:small"
    assert (completion.fallback["from"], completion.fallback["to"]) == ("scripted:big", "scripted:small")
    assert "did not answer in time" in completion.fallback["reason"] or "does not answer" in completion.fallback["reason"]


def test_no_replacement_where_none_is_needed():
    assert _replaced(answer="A").complete(QUESTION).fallback is None


def test_no_replacement_once_text_was_handed_over():
    pieces = []
    with pytest.raises(ChatModelUnavailable, match="middle of its answer"):
        _replaced(answer="one two three four", fail="midway").complete(QUESTION, on_text=pieces.append)
    assert pieces == ["one ", "two "]


def test_a_broken_answer_that_nobody_saw_is_replaced():
    assert _replaced(answer="one two", fail="midway").complete(QUESTION).text == "B c"


def test_when_the_replacement_fails_too_its_error_stands():
    chat = chat_model(
        "scripted",
        "a",
        {"fail": "unavailable", "fallback": {"backend": "scripted", "model": "b", "options": {"fail": "timeout"}}},
    )
    with pytest.raises(ChatModelTimeout, match="scripted:b"):
        chat.complete(QUESTION)


def test_the_scripted_model_answers_by_its_script():
    chat = chat_model("scripted", "", {"script": [["France", "Paris."], ["", "No idea, sorry."]]})
    assert chat.complete(QUESTION).text == "Paris."
    completion = chat.complete([Message(role="user", content="Why?")], max_tokens=2)
    assert (completion.text, completion.finish_reason, completion.usage.completion_tokens) == ("No idea, ", "length", 2)
