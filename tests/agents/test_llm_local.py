"""The local backend and the model process, with models of a few kilobytes; the process is a real one."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import pytest

from agents.errors import ChatModelUnavailable, PromptTooLong
from agents.llm import local
from agents.llm.base import Message
from agents.llm.factory import chat_model
from agents.llm.process import find
from tests.agents.tiny_chat import ask, make, until
from tests.ops.site import ROOT, Site

QUESTION = [Message(role="user", content="Capital of France?")]
pytestmark = pytest.mark.slow


class Served:
    def __init__(self, site: Site, process: subprocess.Popen[str]) -> None:
        self.site, self.process = site, process
        self.state_file = site.folder / "run" / "model-server.json"

    @property
    def state(self) -> dict:
        return json.loads(self.state_file.read_text())

    def call(self, method: str, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection(self.state["address"].removeprefix("http://"), timeout=20)
        with closing(connection):
            key = self.state["token"] if token is None else token
            connection.request(method, path, body, {"authorization": f"Bearer {key}"})
            response = connection.getresponse()
            return response.status, json.load(response)

    def client(self):
        from openai import OpenAI

        return OpenAI(base_url=f"{self.state['address']}/v1", api_key=self.state["token"], max_retries=0, timeout=30)


@contextmanager
def serve_model(site: Site, model: str, *words: str):
    """The real command, until it says that it is ready."""
    command = [sys.executable, str(ROOT / "manage.py"), "serve_model", "--model", model, *words]
    environment = site.environment | {"ADAPTRAG_LOCAL_THREADS": "1", "ADAPTRAG_LOCAL_MODELS": "2"}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    served = Served(site, process)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Ready: "):
                break
        else:
            pytest.fail("".join(lines))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield served
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"one": make(folder / "one"), "two": make(folder / "two", seed=1), "three": make(folder / "three", seed=2)}


@pytest.fixture(scope="module")
def served(tmp_path_factory, models):
    with serve_model(Site(tmp_path_factory.mktemp("site")), str(models["one"])) as served:
        yield served


@pytest.fixture
def here(served, settings):
    """This process works on the served site's data folder."""
    settings.DATA_DIR = served.site.folder
    return served


def _messages():
    return [message.as_dict() for message in ask("Which river?")]


def test_the_openai_client_gets_a_completion_with_usage(served, models):
    answer = served.client().chat.completions.create(model=str(models["one"]), messages=_messages(), max_tokens=7)
    assert answer.object == "chat.completion" and answer.model == str(models["one"])
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "length")
    assert len(answer.choices[0].message.content) == 7
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (7, answer.usage.prompt_tokens + 7)


def test_a_streamed_completion_is_the_same_text_with_usage_at_its_end(served, models):
    create, name = served.client().chat.completions.create, str(models["one"])
    whole = create(model=name, messages=_messages(), max_tokens=20)
    stream = create(model=name, messages=_messages(), max_tokens=20, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len([piece for piece in pieces if piece]) > 5
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_four_at_once_get_what_each_gets_alone(served, models):
    client, name = served.client(), str(models["one"])

    def one(number):
        messages = [{"role": "user", "content": "word " * (1 + 20 * number)}]
        return client.chat.completions.create(model=name, messages=messages, max_tokens=30).choices[0].message.content

    alone = [one(number) for number in range(4)]
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda number=number: found.update({number: one(number)})) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(4)] == alone and len(set(alone)) == 4


def test_stop_strings_temperature_and_seed_are_honoured(served, models):
    create, name = served.client().chat.completions.create, str(models["one"])
    whole = create(model=name, messages=_messages(), max_tokens=30).choices[0].message.content
    stopped = create(model=name, messages=_messages(), max_tokens=30, stop=whole[8:10]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(whole[8:10])], "stop")
    one, again, other = (
        create(model=name, messages=_messages(), max_tokens=30, temperature=1.8, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_models_are_loaded_by_name_and_the_oldest_makes_room(served, models):
    client = served.client()
    texts = {}
    for name in ("one", "two", "three", "one"):
        answer = client.chat.completions.create(model=str(models[name]), messages=_messages(), max_tokens=10)
        assert texts.setdefault(name, answer.choices[0].message.content) == answer.choices[0].message.content
    assert len(set(texts.values())) == 3
    assert [model.id for model in client.models.list().data] == [str(models["three"]), str(models["one"])]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "'messages' must be a list"),
        (b'{"messages": []}', "at least one message"),
        (b'{"messages": [{"role": "boss", "content": "x"}]}', "Message 0 needs a role"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "must be text"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "'max_tokens' must be a whole number from 1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 3}', "'temperature' must be a number from 0 to 2"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": 1}', "'stop' must be"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', "'n' must be 1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream": "yes"}', "'stream' must be true or false"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}', "'tools' is not supported"),
    ],
)
def test_a_wrong_request_gets_status_400_in_openais_form(served, body, message):
    status, answer = served.call("POST", "/v1/chat/completions", body)
    assert status == 400 and message in answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error"


def test_errors_have_the_status_that_openais_client_knows(served, models):
    import openai

    client, name = served.client(), str(models["one"])
    with pytest.raises(openai.NotFoundError, match="no model folder"):
        client.chat.completions.create(model="/nowhere", messages=_messages())
    with pytest.raises(openai.BadRequestError, match="at most 1023") as caught:
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x" * 3000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model=name, messages=_messages())
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=name, input="x")


def test_health_needs_no_token_and_tells_the_state(served, models):
    status, health = served.call("GET", "/health", token="")
    assert (status, health["status"]) == (200, "ok")
    assert health["models"][str(models["one"])]["form"] in ("int8", "fp32")


def test_an_asker_who_hangs_up_frees_the_model(served, models):
    name = str(models["one"])

    def working():
        return served.call("GET", "/health")[1]["models"][name]["answering"]

    stream = served.client().chat.completions.create(model=name, messages=_messages(), max_tokens=900, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: working() == 0, 10)


def test_the_state_file_is_for_its_owner_only(served):
    assert served.state_file.stat().st_mode & 0o777 == 0o600
    assert served.state["pid"] == served.process.pid and len(served.state["token"]) > 30


def test_a_second_model_process_is_refused(served, models):
    done = served.site.manage("serve_model", "--model", str(models["one"]))
    assert done.returncode == 1
    assert f"process {served.process.pid}" in done.stderr and "Traceback" not in done.stderr
    assert served.state["pid"] == served.process.pid, "the first one's file is still there"


def test_other_programs_bring_a_key_that_stays_and_all_addresses_are_published_as_one(tmp_path, models, monkeypatch):
    monkeypatch.setenv("LOCAL_MODEL_API_KEY", "a-key-of-ours")
    everywhere = ("--host", "0.0.0.0")  # noqa: S104 what it publishes then is tested
    with serve_model(Site(tmp_path), str(models["one"]), *everywhere, "--api-key-env", "LOCAL_MODEL_API_KEY") as served:
        assert served.state["address"].startswith("http://127.0.0.1:")
        assert served.state["token"] == "a-key-of-ours"
        assert str(models["one"]) in [model.id for model in served.client().models.list()]


def test_a_key_that_is_not_set_is_told(tmp_path, models):
    done = Site(tmp_path).manage("serve_model", "--model", str(models["one"]), "--api-key-env", "ABSENT_API_KEY")
    assert done.returncode == 1 and "ABSENT_API_KEY is not set" in done.stderr


def test_a_taken_port_is_told(tmp_path, models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = Site(tmp_path).manage("serve_model", "--model", str(models["one"]), "--port", port)
    assert done.returncode == 1 and f"port {port}" in done.stderr and "--port" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_leaves_no_state_file(tmp_path, models, number):
    with serve_model(Site(tmp_path), str(models["one"])) as served:
        served.process.send_signal(number)
        assert served.process.wait(60) == 0
        assert not served.state_file.exists()


def test_a_killed_process_is_noticed_and_replaced(tmp_path, models, settings):
    settings.DATA_DIR = tmp_path
    site = Site(tmp_path)
    with serve_model(site, str(models["one"])) as served:
        served.process.kill()
        served.process.wait()
        assert served.state_file.exists() and find() is None
    with serve_model(site, str(models["one"])) as served:
        assert find().pid == served.process.pid


def test_the_local_backend_uses_the_model_process(here, models):
    chat, pieces = chat_model("local", str(models["one"]), {"price_completion_per_million": 1e6}), []
    completion = chat.complete(ask("Which river?"), max_tokens=9, on_text=pieces.append)
    assert "".join(pieces) == completion.text and len(pieces) > 3
    assert (completion.model, completion.finish_reason) == (str(models["one"]), "length")
    assert (completion.usage.completion_tokens, completion.usage.cost_usd) == (9, 9.0)
    assert local._engines is None, "nothing was loaded in this process"
    assert local.process_state() is None


def test_the_model_process_says_what_the_same_model_says_in_process(here, models, settings):
    served = chat_model("local", str(models["two"]), {}).complete(ask("Which river?"), max_tokens=12)
    settings.ADAPTRAG_LOCAL_MODEL, settings.ADAPTRAG_LOCAL_THREADS = "inprocess", 1
    try:
        loaded = chat_model("local", str(models["two"]), {}).complete(ask("Which river?"), max_tokens=12)
    finally:
        local._engines.close()
    assert loaded == served


def test_errors_keep_their_meaning_through_the_model_process(here, models):
    with pytest.raises(PromptTooLong, match="at most 1023"):
        chat_model("local", str(models["one"]), {}).complete(ask("x" * 3000))
    with pytest.raises(ChatModelUnavailable, match="no model folder"):
        chat_model("local", "/nowhere", {}).complete(QUESTION)


def test_a_restarted_model_process_is_found_again(tmp_path, models, settings):
    settings.DATA_DIR, settings.ADAPTRAG_LOCAL_MODEL = tmp_path, "server"
    chat = chat_model("local", str(models["one"]), {"max_retries": 0})
    with serve_model(Site(tmp_path), str(models["one"])):
        first = chat.complete(ask("Which river?"), max_tokens=5)
    with pytest.raises(ChatModelUnavailable, match="serve_model"):
        chat.complete(QUESTION)
    with serve_model(Site(tmp_path), str(models["one"])):
        assert chat.complete(ask("Which river?"), max_tokens=5) == first
