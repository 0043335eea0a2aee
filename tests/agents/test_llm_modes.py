"""Where the local backend looks for its model, without any model."""

import os
import socket
import sys

import pytest

from agents.errors import ChatModelUnavailable
from agents.llm import local
from agents.llm.base import Message
from agents.llm.factory import chat_model
from agents.llm.process import AlreadyRuns, ModelProcess, claim, find, in_service_process, publish

QUESTION = [Message(role="user", content="Capital of France?")]


@pytest.fixture
def site(tmp_path, settings):
    settings.DATA_DIR = tmp_path
    return tmp_path


def _process(**changes):
    known = {"address": "http://127.0.0.1:9", "pid": os.getpid(), "host": socket.gethostname(), "token": "t", "state": "ready"}
    return ModelProcess(**known | changes)


@pytest.mark.parametrize("command", ["qcluster", "run_job", "runserver"])
def test_a_service_without_a_model_process_says_how_to_start_it_and_loads_nothing(site, monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["manage.py", command])
    with pytest.raises(ChatModelUnavailable, match=r"start it with: python manage\.py serve_model"):
        chat_model("local", "", {}).complete(QUESTION)
    assert local._engines is None


def test_the_web_process_is_a_service(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["uvicorn", "adaptrag.asgi:application"])
    monkeypatch.setitem(sys.modules, "adaptrag.asgi", sys)
    assert in_service_process()


def test_a_command_that_runs_alone_is_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["manage.py", "ask", "qcluster"])
    for name in ("adaptrag.asgi", "adaptrag.wsgi"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not in_service_process()


def test_the_setting_server_forbids_loading_anywhere(site, settings):
    settings.ADAPTRAG_LOCAL_MODEL = "server"
    with pytest.raises(ChatModelUnavailable, match="serve_model"):
        chat_model("local", "", {}).complete(QUESTION)


def test_a_process_that_is_still_loading_is_told_as_such(site, settings):
    settings.ADAPTRAG_LOCAL_MODEL = "server"
    with claim():
        publish(_process(state="loading"))
        with pytest.raises(ChatModelUnavailable, match="still loading"):
            chat_model("local", "", {}).complete(QUESTION)
        assert "still loading" in local.process_state()


def test_a_process_that_does_not_listen_any_more_is_told_as_such(site, settings):
    settings.ADAPTRAG_LOCAL_MODEL = "server"
    with claim():
        publish(_process())
        with pytest.raises(ChatModelUnavailable, match=r"can't be reached; the model process seems to have ended"):
            chat_model("local", "", {"max_retries": 0}).complete(QUESTION)
        assert "does not answer" in local.process_state()


def test_without_a_process_its_state_says_how_to_start_it(site, settings):
    assert "python manage.py serve_model" in local.process_state()
    settings.ADAPTRAG_LOCAL_MODEL = "inprocess"
    assert local.process_state() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"address": "x"}'])
def test_a_damaged_state_file_counts_for_nothing(site, text):
    with claim():
        publish(_process())
        (site / "run" / "model-server.json").write_text(text)
        assert find() is None


def test_the_file_of_a_dead_process_counts_for_nothing(site):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with claim():
        publish(_process(pid=child))
        assert find() is None
        publish(_process(pid=child, host="another-machine"))
        assert find() is not None, "its process ids say nothing here"


def test_one_claim_at_a_time_and_the_file_goes_with_it(site):
    with claim() as token:
        publish(_process(token=token))
        with pytest.raises(AlreadyRuns, match=f"process {os.getpid()}"), claim():
            pass
        assert find().token == token
    assert find() is None
    with claim() as other:
        assert other != token
