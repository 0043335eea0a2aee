"""A small site: one collection, agents with scripted models, keys of both scopes; and the same behind a real uvicorn."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client

from adaptrag.api.services import key_create
from agents.services import agent_register, collection_get_or_create, document_add

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen.\n\n# Ferries\n\nFerries leave at six in the morning.\n"


class Api(Client):
    """JSON in and out, with a key. Exceptions of views become responses, as they do on a server."""

    def __init__(self, key=None, **options):
        super().__init__(raise_request_exception=False, **options)
        if key:
            self.defaults["HTTP_AUTHORIZATION"] = f"Bearer {key}"

    def send(self, path, body=None, **extra):
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.post(path, data, **({"content_type": "application/json"} | extra))


@pytest.fixture(autouse=True)
def fresh_counters():
    cache.clear()


@pytest.fixture
def user(db, django_user_model):
    return django_user_model.objects.create_user("ada", password="pw")


@pytest.fixture
def operator(db, django_user_model):
    return django_user_model.objects.create_user("olga", password="pw", is_staff=True)


@pytest.fixture
def api(user):
    return Api(key_create(user=user, name="asks", scope="query")[1])


@pytest.fixture
def operator_api(operator):
    return Api(key_create(user=operator, name="runs", scope="operator")[1])


def scripted(name, **options):
    return agent_register(
        name=name,
        strategy="naive_rag",
        chat_backend="scripted",
        chat_options={"answer": "Marta Olsen.", **options},
        parameters={"retriever": "bm25"},
    )


@pytest.fixture
def library(db):
    collection = collection_get_or_create("default")
    document_add(collection=collection, name="harbour.md", data=TEXT)
    return collection


@pytest.fixture
def agents(library):
    return scripted("one"), scripted("two")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A uvicorn of its own on its own data folder: `.port`, `.key` (query), `.operator_key`, `.log()`, `.logged()`."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "ADAPTRAG_DATA_DIR": str(folder),
        "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_WEB_THREADS": "2",
        "ADAPTRAG_WEB_BACKLOG": "2",
        "ADAPTRAG_MAX_UPLOAD_BYTES": "200000",
    }

    def logged():
        """(state, code of the error, agent) of each interaction, oldest first."""
        with contextlib.closing(sqlite3.connect(folder / "db.sqlite3")) as database:
            return database.execute(
                "SELECT i.state, json_extract(i.error, '$.code'), v.name FROM rewards_interaction i "
                "JOIN agents_agentvariant v ON v.id = i.variant_id ORDER BY i.created_at"
            ).fetchall()

    code = "from tests.api.site import prepare; prepare()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    keys = json.loads(done.stdout.splitlines()[-1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "web.log"
    with log.open("w") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "adaptrag.asgi:application", "--port", str(port), "--no-access-log"],
            env=environment, cwd=ROOT, stdout=handle, stderr=handle,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", log=log.read_text, logged=logged, **keys)
    finally:
        process.terminate()
        process.wait(20)
