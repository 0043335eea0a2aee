"""A server on loopback with the batch API: files, batches, and results by the test's word."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.agents.faulty_server import send


class BatchServer:
    """Keys in `fails` come back as an error line, those in `expires` not at all; a batch ends once `ends` was looked at."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.status = "completed"
        self.fails: set[str] = set()
        self.expires: set[str] = set()
        self.looks = 2  # until it has ended
        self.asked: list[str] = []
        self.lose_reply = False
        self.absent = False

    def lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def end(self, batch: dict[str, Any]) -> None:
        out, errors = [], []
        for line in self.lines(batch):
            key = line["custom_id"]
            if key in self.expires:
                continue
            if key in self.fails:
                body = {"error": {"message": "It is too long.", "code": "bad"}}
                errors.append({"custom_id": key, "response": {"status_code": 400, "body": body}, "error": None})
                continue
            choice = {"index": 0, "message": {"role": "assistant", "content": "1701"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
            body = {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "tiny-1",
                "choices": [choice],
                "usage": usage,
            }
            out.append({"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None})
        for name, rows in (("output_file_id", out), ("error_file_id", errors)):
            if rows:
                batch[name] = f"file-{name}-{batch['id']}"
                self.files[batch[name]] = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        batch["status"] = self.status
        batch["request_counts"] = {"total": len(self.lines(batch)), "completed": len(out), "failed": len(errors)}


@contextmanager
def serving_batches() -> Iterator[BatchServer]:
    server = BatchServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            if server.absent:
                send(self, 404, {"error": {"message": "Not found.", "type": "t", "code": None}})
            elif self.path == "/v1/files":
                number = f"file-{len(server.files)}"
                part = re.search(rb'filename="requests.jsonl"\r\n.*?\r\n\r\n(.*?)\r\n--', raw, re.DOTALL)
                server.files[number] = part.group(1)
                file = {"id": number, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
                send(self, 200, file | {"status": "processed"})
            else:
                self.batch(json.loads(raw))

        def batch(self, body: dict[str, Any]) -> None:
            batch = body | {"id": f"batch_{len(server.batches)}", "object": "batch", "status": "in_progress", "created_at": 1}
            server.batches[batch["id"]] = batch | {"seen": 0}
            server.asked += [line["custom_id"] for line in server.lines(batch)]
            if server.lose_reply:
                server.lose_reply = False
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            send(self, 200, batch)

        def do_GET(self) -> None:
            if found := re.fullmatch(r"/v1/files/(.+)/content", self.path):
                send(self, 200, server.files[found.group(1)], content_type="application/octet-stream")
            elif found := re.fullmatch(r"/v1/batches/(\w+)", self.path):
                batch = server.batches.get(found.group(1))
                if batch is None:
                    send(self, 404, {"error": {"message": "No such batch.", "type": "t", "code": None}})
                    return
                batch["seen"] += 1
                if batch["seen"] >= server.looks and batch["status"] == "in_progress":
                    server.end(batch)
                send(self, 200, batch)
            else:
                send(self, 200, {"object": "list", "data": list(server.batches.values())[::-1], "has_more": False})

        def log_message(self, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
