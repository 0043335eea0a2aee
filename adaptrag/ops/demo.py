"""`make demo`: a whole site on this machine, prepared, started, asked one question, and stopped again."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

from adaptrag.api.models import ApiKey
from adaptrag.api.services import key_create, key_revoke
from adaptrag.ops.errors import DemoFailed
from adaptrag.ops.supervisor import Program, Supervisor
from agents.services import agents_register_defaults

QUESTION = "How does AdaptRAG decide which agent answers a question?"
OPERATOR = "operator"
SAMPLE_AGENTS = ("table_rag", "multimodal_rag")  # beside those of any new site: docs/samples/ has something for them
READY_WITHIN = 600.0
ANSWER_WITHIN = 180.0

Say = Callable[[str], None]


class Stopped(BaseException):
    """Somebody asked the demo to end."""


@dataclass(frozen=True, kw_only=True)
class Address:
    host: str
    port: int

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}:{self.port}{path}"

    def refuse_if_taken(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
                probe.listen()
            except (OSError, OverflowError) as error:
                raise DemoFailed(
                    f"Port {self.port} on {self.host} can't be used ({getattr(error, 'strerror', error)}). "
                    f"Stop what listens there, or choose another port: PORT={self.port + 1} make demo"
                ) from error

    def call(self, method: str, path: str, *, key: str = "", body: Any = None, timeout: float = 5) -> tuple[int, Any]:
        """One JSON request; OSError or http.client.HTTPException when nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            response = connection.getresponse()
            data = response.read()
        try:
            return response.status, json.loads(data)
        except ValueError:
            return response.status, data.decode(errors="replace")


def run(address: Address, *, stay: bool, say: Say) -> None:
    """Start everything, show that it works, and (with `stay`) watch over it until SIGINT, SIGTERM or SIGHUP."""
    began = time.monotonic()
    with _only_one(), _stoppable():
        address.refuse_if_taken()
        supervisor = Supervisor(Path(settings.DATA_DIR) / "logs", say)
        model, *others = programs(address)
        try:
            supervisor.start(model)  # it needs no database, and takes longest
            _prepare(say)
            for program in others:
                supervisor.start(program)
            # Before the documents: what agents search besides passages is then made with them.
            agents_register_defaults(also=SAMPLE_AGENTS)
            _ingest_docs(say)
            wait_until_ready(address, supervisor, say)
            user, credentials = operator_account()
            _greet(address, credentials, time.monotonic() - began, say)
            _ask(address, user, say)
            if stay:
                say("\nCtrl-C stops everything.")
            while stay:
                supervisor.watch()
                time.sleep(0.5)
        except Stopped:
            say("\nStopping…")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # once is enough: the children are being ended
            supervisor.stop()
        say("Everything that the demo started has ended. The data stays in " + str(settings.DATA_DIR))


def programs(address: Address) -> list[Program]:
    """The four programs of a site on one machine, the model process first."""
    python, manage = sys.executable, str(settings.BASE_DIR / "manage.py")
    web = [python, "-m", "uvicorn", "adaptrag.asgi:application", "--host", address.host, "--port", str(address.port)]
    return [
        Program(name="model", command=[python, manage, "serve_model"]),
        Program(name="web", command=[*web, "--no-access-log"]),
        Program(name="queue", command=[python, manage, "qcluster"]),
        Program(name="queue-long", command=[python, manage, "qcluster"], environment={"Q_CLUSTER_NAME": "long"}),
    ]


def operator_account() -> tuple[Any, tuple[str, str] | None]:
    """The operator, and (password, API key) where this call made them: they are stored as digests and shown once."""
    users = get_user_model().objects
    if user := users.filter(username=OPERATOR).first():
        return user, None
    password = secrets.token_urlsafe(12)
    user = users.create_superuser(OPERATOR, password=password)
    return user, (password, key_create(user=user, name="demo", scope=ApiKey.Scope.OPERATOR)[1])


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Refuse a second demo on the same data folder."""
    path = Path(settings.DATA_DIR) / "run" / "demo.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise DemoFailed(
                f"A demo (process {handle.read().strip() or 'unknown'}) already runs on {settings.DATA_DIR}. "
                "Stop it with Ctrl-C, or set ADAPTRAG_DATA_DIR to another folder."
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare(say: Say) -> None:
    say("Preparing the database and the static files")
    call_command("migrate", interactive=False, verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0, stdout=StringIO())


def _ingest_docs(say: Say) -> None:
    say("Reading docs/ into the collection 'default'")
    # A process of its own: faiss and the embedding model don't belong in the one that watches over the others.
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "ingest", *map(str, knowledge()), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(
            f"docs/ could not be read. `manage.py ingest docs` ended with exit code {done.returncode}:\n{done.stderr[-2000:]}"
        )
    result = json.loads(done.stdout)
    say(f"  {result['documents']} documents in {result['chunks']} passages")


def knowledge() -> list[Path]:
    """The handbook, and a table and an image for the agents of those. Not docs/decisions/: it speaks to developers, and in
    answers to operators its passages only stand in the way."""
    docs = settings.BASE_DIR / "docs"
    return [*sorted(docs.glob("*.md")), *sorted((docs / "samples").iterdir())]


def wait_until_ready(address: Address, supervisor: Supervisor, say: Say) -> None:
    first = not any(Path(settings.ADAPTRAG_MODELS_DIR).glob("*/*.safetensors"))
    say("Waiting for the model, the web server and the queue" + (" (weights are converted once, about 20 s)" if first else ""))
    began = last_said = time.monotonic()
    state: Any = "no answer yet"
    while True:
        if dead := supervisor.dead():
            raise DemoFailed(
                f"{dead[0]} ended while starting. The end of {supervisor.log(dead[0])}:\n{supervisor.tail(dead[0])}"
            )
        try:
            status, state = address.call("GET", "/api/health")
            if status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        now = time.monotonic()
        if now - began > READY_WITHIN:
            raise DemoFailed(f"Not ready after {READY_WITHIN:.0f} s; health says: {state}. Logs are in {supervisor.logs}.")
        if now - last_said > 10:
            say(f"  … {now - began:.0f} s")
            last_said = now
        time.sleep(0.5)


def _greet(address: Address, credentials: tuple[str, str] | None, seconds: float, say: Say) -> None:
    say(f"\nAdaptRAG is up after {seconds:.0f} s.\n")
    say(f"  Chat      {address.url('/')}")
    say(f"  Admin     {address.url('/admin/')}")
    say(f"  API docs  {address.url('/api/docs')}")
    if credentials:
        password, key = credentials
        say(f"\n  Sign in   {OPERATOR} / {password}")
        say(f"  API key   {key}")
        say("  Both are shown this once: note them.")
    else:
        say(f"\n  Sign in as '{OPERATOR}'; password and API key were shown when the account was made.")
        say(f"  New ones: {_manage('changepassword', OPERATOR)}")
        say(f"            {_manage('api_key', 'create', OPERATOR, '--scope', 'operator')}")


def _manage(*words: str) -> str:
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} manage.py {' '.join(words)}"


def _ask(address: Address, user: Any, say: Say) -> None:
    """One question over HTTP with a key that lives only for it."""
    say(f"\nA question of the docs, over HTTP: {QUESTION}")
    key, text = key_create(user=user, name="demo's own question", scope=ApiKey.Scope.QUERY)
    try:
        began = time.monotonic()
        status, answer = address.call("POST", "/api/query", key=text, body={"question": QUESTION}, timeout=ANSWER_WITHIN)
        seconds = time.monotonic() - began
    except (OSError, http.client.HTTPException) as error:
        raise DemoFailed(f"The web server gave no answer: {error}. Logs are in {Path(settings.DATA_DIR) / 'logs'}.") from error
    finally:
        key_revoke(key)
    if status != 200:
        raise DemoFailed(f"The question failed with status {status}: {answer}")
    say(f"\n  {answer['answer'].strip()}\n")
    say(f"  by {answer['agent']} in {seconds:.1f} s, for a question of the kind '{answer['category']}', from")
    for number, source in enumerate(answer["sources"], 1):
        if source["used"]:
            say(f"  [{number}] {source['heading'] or source['document']}")
