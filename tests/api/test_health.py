"""GET /api/health and /metrics; the settings' checks."""

import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.checks import run_checks
from django.utils import timezone
from django_q.models import Schedule

from adaptrag.api import health
from agents.llm.process import ModelProcess, claim, publish
from agents.services import agent_register
from tests.api.conftest import ROOT, Api


@pytest.fixture(autouse=True)
def look_again(monkeypatch):
    monkeypatch.setattr(health, "FRESH_SECONDS", -1)


def parts():
    response = Api().get("/api/health")
    return response.status_code, response.json()["status"], response.json()["parts"]


def test_a_site_that_can_answer_is_ready(agents):
    status, state, found = parts()
    assert (status, state) == (200, "ok"), found
    assert set(found) == {"database", "migrations", "index", "model", "queue"}


def test_without_the_model_process_that_every_agent_needs_it_is_not_ready(library):
    agent_register(name="local", strategy="naive_rag")
    status, state, found = parts()
    assert (status, state, found["model"]["status"]) == (503, "down", "down")
    assert "serve_model" in found["model"]["message"]
    agent_register(name="other", strategy="naive_rag", chat_backend="scripted", chat_options={"answer": "x"})
    assert parts()[:2] == (200, "degraded")


def test_the_model_process_must_be_ready_and_answer(library):
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    agent_register(name="local", strategy="naive_rag")
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    known = {"address": f"http://127.0.0.1:{listening.server_port}", "pid": os.getpid(), "host": socket.gethostname()}
    with claim() as token:
        publish(ModelProcess(**known, token=token))
        assert "loading" in parts()[2]["model"]["message"]
        publish(ModelProcess(**known, token=token, state="ready"))
        assert parts()[2]["model"]["status"] == "ok"
        listening.shutdown()
        listening.server_close()
        assert "does not answer" in parts()[2]["model"]["message"]


def test_a_queue_that_nobody_works_is_told_and_answers_go_on(agents):
    Schedule.objects.filter(name="jobs: reap").update(next_run=timezone.now() - timedelta(hours=1))
    status, state, found = parts()
    assert (status, state) == (200, "degraded")
    assert "qcluster" in found["queue"]["message"]


def test_missing_index_files_are_told(agents, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    assert parts()[2]["index"]["status"] == "degraded"


def test_a_database_that_does_not_answer_is_not_ready(agents, monkeypatch):
    from django.db import OperationalError

    def gone():
        raise OperationalError("secret host name")

    monkeypatch.setitem(health.PARTS, "database", gone)
    status, state, found = parts()
    assert (status, state) == (503, "down")
    assert "secret" not in str(found)


def test_metrics_are_the_operators_and_count_what_was_asked(api, operator_api, agents, settings):
    api.send("/api/query/one", {"question": "Who keeps the lighthouse?"})
    text = operator_api.get("/metrics").content.decode()
    assert 'adaptrag_queries_total{agent="one"' in text
    assert "django_http_requests_latency_seconds_by_view_method" in text
    assert api.get("/metrics").status_code == 403
    settings.ADAPTRAG_METRICS = "open"
    assert Api().get("/metrics").status_code == 200
    settings.ADAPTRAG_METRICS = "off"
    assert operator_api.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MALFORMED_ENVIRONMENT", {"ADAPTRAG_WEB_THREADS": "'many' is not a number"}, "adaptrag.E001"),
        ("ADAPTRAG_WEB_THREADS", 0, "adaptrag.E002"),
        ("ADAPTRAG_METRICS", "everyone", "adaptrag.E003"),
        ("LOG_FORMAT", "xml", "adaptrag.E003"),
        ("LOG_LEVEL", "LOUD", "adaptrag.E003"),
        ("ADAPTRAG_DEFAULT_COLLECTION", "Two Words", "adaptrag.E005"),
        ("ADAPTRAG_THROTTLES", {"key": "often"}, "adaptrag.E006"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(settings, name, value, expected):
    setattr(settings, name, value)
    found = [message for message in run_checks(tags=["adaptrag"]) if message.id == expected]
    assert found
    assert found[0].hint


def test_right_settings_pass(settings):
    assert run_checks(tags=["adaptrag"]) == []


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL can't be read"),
        ({"ADAPTRAG_CACHE_URL": "nonsense"}, "ADAPTRAG_CACHE_URL can't be read"),
        ({"ADAPTRAG_HTTPS": "maybe"}, "neither true nor false"),
        ({"ADAPTRAG_WEB_THREADS": "many"}, "ADAPTRAG_WEB_THREADS: 'many' is not a number"),
    ],
)
def test_an_environment_that_can_not_be_read_is_told(environment, words, tmp_path):
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "adaptrag.settings", "ADAPTRAG_DATA_DIR": str(tmp_path)} | environment
    command = [sys.executable, "manage.py", "check", "--tag", "adaptrag"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
