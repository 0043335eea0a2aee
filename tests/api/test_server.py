"""The site behind a real uvicorn: streams, limits, load, and what the log keeps."""

import http.client
import json
import socket
import threading
import time

import pytest

pytestmark = pytest.mark.slow

QUESTION = {"question": "Who keeps the lighthouse?"}


def call(server, method, path, body=None, key=None, timeout=20, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    headers = {"Content-Type": "application/json"} | headers
    if key := server.key if key is None else key:
        headers["Authorization"] = f"Bearer {key}"
    connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
    return connection.getresponse()


def events(response):
    """(seconds since the first byte, event, data) as they come in."""
    begun, name = time.monotonic(), None
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield time.monotonic() - begun, name, json.loads(line.removeprefix("data: "))


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return value


def test_a_stream_tells_the_route_then_the_text_as_it_is_made_then_the_whole(server):
    response = call(server, "POST", "/api/query/slow?stream=1", QUESTION)
    assert response.getheader("Content-Type").startswith("text/event-stream")
    got = list(events(response))
    names = [name for _, name, _ in got]
    assert names[0] == "routing"
    assert names[-1] == "done"
    deltas = [(at, data["text"]) for at, name, data in got if name == "delta"]
    done = got[-1][2]
    assert "".join(text for _, text in deltas) == done["answer"]
    assert done["interaction_id"] == got[0][2]["interaction_id"]
    assert len(deltas) > 3
    assert deltas[-1][0] - deltas[0][0] > 1, "pieces came as they were made, not all at the end"


def test_a_stream_that_fails_ends_with_the_error(server):
    got = list(events(call(server, "POST", "/api/query/down?stream=1", QUESTION)))
    assert [name for _, name, _ in got] == ["routing", "error"]
    error = got[-1][2]["error"]
    assert error["code"] == "chat_model_unavailable"
    assert error["details"]["interaction_id"] == got[0][2]["interaction_id"]


def test_what_is_wrong_before_the_stream_has_its_own_status(server):
    assert call(server, "POST", "/api/query/nobody?stream=1", QUESTION).status == 404
    assert call(server, "POST", "/api/query?stream=1", {"question": ""}).status == 400
    assert call(server, "POST", "/api/query?stream=maybe", QUESTION).status == 400
    assert call(server, "POST", "/api/query?stream=1", QUESTION, key="wrong").status == 401


def test_a_client_that_leaves_stops_the_answer_and_the_log_says_so(server):
    before = len(server.logged())
    response = call(server, "POST", "/api/query/slow?stream=1", QUESTION)
    for _, name, _ in events(response):
        if name == "delta":
            break
    response.close()
    rows = wait_until(lambda: (rows := server.logged())[before:] and rows)
    assert rows[before:] == [("failed", "client_gone", "slow")]


def test_more_callers_than_may_wait_are_refused_at_once_and_health_still_answers(server):
    statuses, lock = [], threading.Lock()

    def ask():
        response = call(server, "POST", "/api/query/slow", QUESTION)
        with lock:
            statuses.append((response.status, response.getheader("Retry-After"), response.read()))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert call(server, "GET", "/api/health?live=1", timeout=1.5).status == 200
    for thread in threads:
        thread.join()
    # Two threads, two places to wait.
    assert sorted(status for status, _, _ in statuses) == [200] * 4 + [503] * 6
    refused = [(wait, json.loads(body)) for status, wait, body in statuses if status == 503]
    assert {(wait, body["error"]["code"]) for wait, body in refused} == {("1", "overloaded")}


def test_an_upload_beyond_the_limit_is_refused_without_reading_it(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    head = (
        f"POST /api/documents HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.operator_key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 999999999\r\n\r\n"
    )
    connection.sendall(head.encode() + b"x" * 1000)
    answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert '"too_large"' in answer


def test_static_files_of_the_docs_page_are_served_here(server):
    page = call(server, "GET", "/api/docs", key="").read().decode()
    start = page.index("/static/drf_spectacular_sidecar")
    path = page[start : page.index('"', start)]
    response = call(server, "GET", path, key="")
    assert response.status == 200
    assert "https://" not in page, "the page loads nothing from elsewhere"


def test_sixteen_callers_at_once_are_all_answered_and_logged(server):
    before = len(server.logged())
    statuses = []

    def ask():
        for _ in range(5):
            status = 503
            while status == 503:
                status = call(server, "POST", "/api/query/quick", QUESTION).status
            statuses.append(status)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 80
    assert len(server.logged()) - before == 80


def test_the_log_has_a_line_with_the_requests_id(server):
    response = call(server, "GET", "/api/agents")
    identifier = response.getheader("X-Request-ID")
    assert len(identifier) == 32
    wait_until(lambda: f"request_id={identifier}" in server.log())
