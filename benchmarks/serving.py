"""Serving: POST /api/query over HTTP, beside a bare ASGI echo in the same run.

One web process answers with the scripted chat model and an agent on BM25 alone; every interaction is in the database, synced to
disk, before its response leaves. The client is a process of its own on the same machine, with one connection per concurrent
caller. What embedding a question would add is a row of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import AdaptRAGError

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
AGENT = "bm25"
WORDS = 3000
PASSAGE_WORDS = 120


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (8)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16], help="callers at once (1 16)")
    parser.add_argument("--documents", type=int, default=500, help="documents to search (500)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {server, concurrency, requests_per_second, p50_ms, p95_ms, p99_ms, requests, errors, logged}; times in ms."""
    with tempfile.TemporaryDirectory(prefix="adaptrag-serving-") as folder:
        progress(0.02, "making a site")
        environment = _environment(Path(folder))
        key = _child(["prepare", str(options["documents"])], environment)["key"]
        rows = []
        with (
            _server("benchmarks.serving:echo", environment, Path(folder) / "echo.log") as echo_port,
            _server("adaptrag.asgi:application", environment, Path(folder) / "web.log") as port,
        ):
            servers = [("bare ASGI echo", echo_port, "/"), ("POST /api/query", port, "/api/query")]
            runs = [(name, port, path, n) for n in options["concurrency"] for name, port, path in servers]
            for done, (name, at, path, concurrency) in enumerate(runs):
                progress(0.1 + 0.8 * done / len(runs), f"{name}, {concurrency} at once")
                figures = _child(["load", str(at), path, str(concurrency), str(options["seconds"]), key], environment)
                rows.append({"server": name, "concurrency": concurrency, **figures})
        progress(0.92, "embedding")
        checked = _child(["check"], environment)
        answered = sum(row["requests"] + row.pop("warm_up") for row in rows if row["server"] != "bare ASGI echo")
        for row in rows:
            row.pop("warm_up", None)
            row["logged"] = None if row["server"] == "bare ASGI echo" else checked["interactions"] == answered
        rows.append({"server": "embedding one question", "concurrency": 1, **checked["embedding"]})
        progress(1, "")
    return rows


def _environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTRAG_", "DATABASE_URL"))}
    return {
        **inherited,
        "ADAPTRAG_DATA_DIR": str(folder),
        "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "PYTHONPATH": str(ROOT),
        # The limits are still counted, only never reached.
        "ADAPTRAG_THROTTLE_KEY": "100000000/min",
        "ADAPTRAG_THROTTLE_USER": "100000000/min",
    }


def _child(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkFailed(f"`{' '.join(words[:2])}` failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def _server(application: str, environment: dict[str, str], log: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", application, "--host", HOST, "--port", str(port), "--no-access-log"]
    with log.open("w") as handle:
        process = subprocess.Popen(
            [*command, "--loop", "uvloop", "--http", "httptools"], env=environment, cwd=ROOT, stdout=handle, stderr=handle
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed(f"{application} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The least that an ASGI application can do with a request: read it and send it back."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), _length(body)]}
    )
    await send({"type": "http.response.body", "body": body})


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


# The child processes -------------------------------------------------------------------------------------------------


def _word(number: int) -> str:
    """Pronounceable and distinct, so that the stemmer leaves most of them apart."""
    consonants, vowels = "bcdfghklmnprstvz", "aeiou"
    out = ""
    for _ in range(3):
        number, digit = divmod(number, len(consonants) * len(vowels))
        out += consonants[digit % len(consonants)] + vowels[digit // len(consonants)]
    return out


def _text(rng: random.Random, count: int) -> str:
    # Zipf-like: a few words in most documents, most words in few.
    return " ".join(_word(int(WORDS * rng.random() ** 3)) for _ in range(count))


def prepare(documents: int) -> dict[str, Any]:
    """A migrated database, an indexed collection, one agent on BM25, and a key."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from adaptrag.api.models import ApiKey
    from adaptrag.api.services import key_create
    from agents.services import agent_register, collection_get_or_create, collection_index, document_add

    call_command("migrate", interactive=False, verbosity=0)
    rng = random.Random(0)
    collection = collection_get_or_create(settings.ADAPTRAG_DEFAULT_COLLECTION)
    for number in range(documents):
        text = f"# {_text(rng, 5)}\n\n{_text(rng, PASSAGE_WORDS)}"
        document_add(collection=collection, name=f"{number}.md", data=text.encode(), index=False)
    collection_index(collection)
    agent_register(
        name=AGENT,
        strategy="naive_rag",
        chat_backend="scripted",
        chat_options={"answer": _text(rng, 30)},
        parameters={"retriever": "bm25"},
    )
    user = get_user_model().objects.create_user("benchmark")
    return {"key": key_create(user=user, name="benchmark", scope=ApiKey.Scope.QUERY)[1]}


def check() -> dict[str, Any]:
    """What the database holds afterwards, and the time of one embedding."""
    import django

    django.setup()
    from django.db import connection

    from agents.retrieval.embedding import embedder
    from rewards.models import Interaction

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        if cursor.fetchone()[0] < 2:
            raise BenchmarkFailed(
                "The database does not sync each commit to disk; the figures would not be of durable logging."
            )
    rng, model, times = random.Random(1), embedder(), []
    for number in range(60):
        begun = time.perf_counter()
        model.embed([f"what is {_text(rng, 8)}?"])
        if number >= 10:
            times.append(time.perf_counter() - begun)
    return {"interactions": Interaction.objects.filter(state="answered").count(), "embedding": _figures(times, sum(times), 0)}


class Connection(asyncio.Protocol):
    """One keep-alive connection that sends the next request when an answer is complete."""

    def __init__(self, next_request: Callable[[], bytes | None], done: asyncio.Future) -> None:
        self.next_request, self.done = next_request, done
        self.buffer, self.times, self.errors = b"", [], 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        if (request := self.next_request()) is None:
            self.transport.close()
            self.done.set_result(None)
            return
        self.begun = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            return
        self.times.append(time.perf_counter() - self.begun)
        self.errors += not head.startswith(b"HTTP/1.1 200")
        self.buffer = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


async def load(port: int, path: str, concurrency: int, seconds: float, key: str) -> dict[str, Any]:
    """Ask for `seconds`, after a second of warming up."""
    rng = random.Random(2)

    def request() -> bytes:
        body = json.dumps({"question": f"what is {_text(rng, 8)}?"}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    requests = [request() for _ in range(2000)]

    async def phase(duration: float) -> tuple[list[float], int, float]:
        loop, end = asyncio.get_running_loop(), time.perf_counter() + duration
        begun = time.perf_counter()

        def next_request() -> bytes | None:
            return rng.choice(requests) if time.perf_counter() < end else None

        ends = [loop.create_future() for _ in range(concurrency)]
        made = [await loop.create_connection(lambda done=done: Connection(next_request, done), HOST, port) for done in ends]
        await asyncio.gather(*ends)
        times = [value for _, connection in made for value in connection.times]
        return times, sum(connection.errors for _, connection in made), time.perf_counter() - begun

    warm_up, errors, _ = await phase(1.0)
    if errors:
        raise BenchmarkFailed(f"{errors} of {len(warm_up)} warm-up requests failed.")
    times, errors, wall = await phase(seconds)
    return {**_figures(times, wall, errors), "warm_up": len(warm_up)}


def _figures(times: list[float], wall: float, errors: int) -> dict[str, Any]:
    ordered = sorted(times)
    at = {
        f"p{share}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000, 2) for share in (50, 95, 99)
    }
    return {"requests_per_second": round(len(times) / wall, 1), **at, "requests": len(times), "errors": errors}


def main(words: list[str]) -> None:
    import uvloop

    match words:
        case ["prepare", documents]:
            result = prepare(int(documents))
        case ["check"]:
            result = check()
        case ["load", port, path, concurrency, seconds, key]:
            result = uvloop.run(load(int(port), path, int(concurrency), float(seconds), key))
        case _:
            raise SystemExit("Run it as `python manage.py benchmark serving`.")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
