"""SearXNG's JSON API over real sockets: what a good server gives, and what becomes of bad ones."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from agents.errors import ExternalSearchFailed
from agents.retrieval.external import LONGEST_REPLY, SearXNG, external_search

RESULTS = [
    {"title": "Skarv &amp; Røst", "url": "https://example.org/skarv", "content": "Skarv has 214\x00 people."},
    {"title": "", "url": "http://example.org/plain", "content": "No title."},
    {"title": "Script", "url": "javascript:alert(1)", "content": "An address that no browser should open."},
    {"title": "Empty", "url": "https://example.org/empty", "content": ""},
    {"title": "Numbers", "url": "https://example.org/numbers", "content": 7},
    {"title": "Third", "url": "https://example.org/third", "content": "Another."},
]


@pytest.fixture
def server():
    """A server whose `reply` a test sets: a function of the handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.server.reply(self)

        def send(self, status, body, content_type="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.asked = []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def results(handler):
    handler.send(200, json.dumps({"query": "x", "results": RESULTS}).encode())


def test_results_become_passages_with_their_address(server):
    server.reply = results
    found = SearXNG(f"{server.url}/", 5).search("Skarv & people? ünï", 5)
    assert [(one.document, one.text, one.url) for one in found] == [
        ("Skarv & Røst", "Skarv has 214 people.", "https://example.org/skarv"),
        ("http://example.org/plain", "No title.", "http://example.org/plain"),
        ("Third", "Another.", "https://example.org/third"),
    ]
    assert [(one.chunk_id, one.document_id, one.rank, one.retriever) for one in found] == [
        (-1, 0, 1, "searxng"), (-2, 0, 2, "searxng"), (-3, 0, 3, "searxng"),
    ]  # fmt: skip
    asked = urlsplit(server.asked[0])
    assert asked.path == "/search"
    assert parse_qs(asked.query) == {"q": ["Skarv & people? ünï"], "format": ["json"]}


def test_no_more_than_asked_for(server):
    server.reply = results
    assert len(SearXNG(server.url, 5).search("x", 1)) == 1


def html_page(handler):
    handler.send(200, b"<html>no json here</html>", "text/html")


def a_list(handler):
    handler.send(200, b"[1, 2]")


def no_objects(handler):
    handler.send(200, b'{"results": [1, 2]}')


def forbidden(handler):
    handler.send(403, b"")


def broken(handler):
    handler.send(500, b"")


def endless(handler):
    handler.send(200, b'{"results": [' + b" " * (LONGEST_REPLY + 1))


def hangs_up(handler):
    handler.connection.close()


def silent(handler):
    time.sleep(3)


def trickles(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(60):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def no_http(handler):
    handler.connection.sendall(b"\x00\xff nonsense\r\n\r\n")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (html_page, "not SearXNG's JSON"),
        (a_list, "not SearXNG's JSON"),
        (no_objects, "not SearXNG's JSON"),
        (forbidden, "status 403: is `json`"),
        (broken, "status 500"),
        (endless, "longer than"),
        (hangs_up, "failed"),
        (silent, "within 0.4 s"),
        (trickles, "within 0.4 s"),
        (no_http, "failed"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or None,
)
def test_a_server_that_misbehaves_is_told_in_words_and_in_time(server, reply, words):
    server.reply = reply
    begun = time.monotonic()
    with pytest.raises(ExternalSearchFailed, match=words) as failure:
        SearXNG(server.url, 5 if reply is endless else 0.4).search("x", 3)
    assert time.monotonic() - begun < 2.5
    assert server.url in failure.value.message
    assert "ADAPTRAG_SEARXNG_URL" in failure.value.message


def test_nobody_listens(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ExternalSearchFailed, match="no connection"):
        SearXNG(server.url, 1).search("x", 3)


def test_it_is_there_only_where_it_is_configured(settings):
    settings.ADAPTRAG_SEARXNG_URL = ""
    assert external_search() is None
    settings.ADAPTRAG_SEARXNG_URL = "http://127.0.0.1:8888"
    assert external_search().name == "searxng"
