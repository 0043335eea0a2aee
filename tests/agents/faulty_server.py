"""An OpenAI-compatible server on loopback that misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class FaultyServer:
    """Each request takes the next behaviour; the last one stays."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = [answer("Paris.")]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.hung_up = threading.Event()
        self.url = ""


@contextmanager
def serving() -> Iterator[FaultyServer]:
    server = FaultyServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            behaviour = server.behaviours[min(len(server.requests), len(server.behaviours) - 1)]
            server.requests.append(body)
            server.keys.append(self.headers["authorization"])
            server.times.append(time.monotonic())
            try:
                behaviour(self, body)
            except OSError:
                server.hung_up.set()

        def log_message(self, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in ({"content-type": "application/json", "content-length": str(len(raw))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)


def answer(text: Any, *, reason: str = "stop", usage: Any = (11, 3), pause: float = 0.0) -> Behaviour:
    """Whole or streamed, as the request asks."""
    counted = usage and {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}

    def behave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        base = {"id": "x", "created": 1, "model": "tiny-1"}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
            send(handler, 200, base | {"object": "chat.completion", "choices": [choice], "usage": counted})
            return
        chunks = [delta({"role": "assistant", "content": ""})]
        chunks += [delta({"content": piece}) for piece in (text or "")]
        chunks += [delta({}, reason), base | {"choices": [], "usage": counted}]
        stream(handler, chunks, pause=pause)

    return behave


def delta(content: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": content, "finish_reason": reason}
    return {"id": "x", "created": 1, "model": "tiny-1", "object": "chat.completion.chunk", "choices": [choice]}


def stream(handler: BaseHTTPRequestHandler, chunks: list[Any], *, done: bool = True, pause: float = 0.0) -> None:
    """Server-sent events, the connection closed behind them. A chunk of bytes goes out as it is."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(chunk if isinstance(chunk, bytes) else f"data: {json.dumps(chunk)}\n\n".encode())
        handler.wfile.flush()
        time.sleep(pause)
    if done:
        handler.wfile.write(b"data: [DONE]\n\n")
    handler.close_connection = True


def failing(status: int, message: str = "no", code: str | None = None, **headers: str) -> Behaviour:
    return lambda handler, body: send(handler, status, {"error": {"message": message, "type": "t", "code": code}}, **headers)


def hanging(seconds: float) -> Behaviour:
    return lambda handler, body: time.sleep(seconds)


def cut(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Break the connection in the middle of a chunked stream."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    event = f"data: {json.dumps(delta({'content': 'Par'}))}\n\n".encode()
    handler.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
    handler.wfile.flush()
    handler.connection.close()
    handler.close_connection = True
