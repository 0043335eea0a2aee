"""`make demo` as an operator sees it: a real process that starts a real site and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from adaptrag.ops import demo
from adaptrag.ops.demo import Address
from adaptrag.ops.errors import DemoFailed
from adaptrag.ops.supervisor import Program, Supervisor
from adaptrag.orchestrator import QueryRequest, query
from agents.models import AgentVariant
from agents.services import agents_register_defaults, collection_get_or_create, collection_index, derived_refresh, document_add
from agents.services.agents import DEFAULT_AGENTS
from agents.strategies import STRATEGIES
from tests.ops.conftest import free_port
from tests.ops.site import ROOT, Site

STARTED_WITHIN = 300
SAMPLED = {
    "table_rag": "How many model calls does hyde_rag make at most?",
    "multimodal_rag": "What are the four steps of the learning loop in the image?",
}


class Demo:
    """A running `manage.py demo`, whose output is read line by line."""

    def __init__(self, site: Site, port: int, *words: str) -> None:
        command = [sys.executable, str(ROOT / "manage.py"), "demo", "--port", str(port), *words]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command, env=site.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""
        self.descendants: list[psutil.Process] = []

    def read_until(self, words: str) -> None:
        for line in self.process.stdout:
            self.output += line
            if words in line:
                self.descendants = psutil.Process(self.process.pid).children(recursive=True)
                return
        raise AssertionError(f"The demo ended without {words!r}:\n{self.output}")

    def finish(self, seconds: float = 60) -> int:
        self.output += self.process.communicate(timeout=seconds)[0]
        return self.process.returncode

    def survivors(self, seconds: float = 20) -> list[psutil.Process]:
        return psutil.wait_procs(self.descendants, timeout=seconds)[1]


@contextmanager
def started(site: Site, port: int, *words: str) -> Iterator[Demo]:
    running = Demo(site, port, *words)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            running.finish()


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_taken_port_is_named_with_the_remedy_and_nothing_is_made(tmp_path):
    site = Site(tmp_path / "var")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = site.manage("demo", "--port", port)
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert f"PORT={port + 1} make demo" in done.stderr
    assert not (site.folder / "db.sqlite3").exists()


def test_a_port_that_is_no_number_is_wrong_usage(tmp_path):
    site = Site(tmp_path / "var", PORT="eight")
    done = site.manage("demo")
    assert done.returncode == 2
    assert "eight" in done.stderr


def test_a_program_that_ends_while_starting_is_told_with_the_end_of_its_log(tmp_path):
    supervisor = Supervisor(tmp_path, lambda line: None)
    supervisor.start(Program(name="web", command=[sys.executable, "-c", "raise SystemExit('no module named x')"]))
    try:
        with pytest.raises(DemoFailed, match=r"(?s)web ended while starting.*no module named x"):
            demo.wait_until_ready(Address(host="127.0.0.1", port=free_port()), supervisor, lambda line: None)
    finally:
        supervisor.stop()


def test_help_lists_every_target_of_the_makefile():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "lint", "bench", "help"} <= set(targets)
    for target in targets:
        assert f"make {target} " in shown


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_every_agent_of_the_demo_answers_from_its_documents():
    collection = collection_get_or_create("default")
    agents = agents_register_defaults(also=demo.SAMPLE_AGENTS)
    AgentVariant.objects.update(chat_backend="scripted", chat_options={"answer": "It is in the handbook [1]."})
    for path in demo.knowledge():
        if path.suffix != ".md" or path.name in ("concepts.md", "routing.md"):
            document_add(collection=collection, name=path.name, data=path.read_bytes(), index=False)
    collection_index(collection)
    derived_refresh(collection)
    assert {agent.strategy for agent in agents} == set(STRATEGIES) - {"lora_rag", "quantized_rag"}  # they need a training
    for agent in agents:
        question = SAMPLED.get(agent.name, demo.QUESTION)
        result = query(QueryRequest(question=question, agent=agent.name))
        assert (result.agent, result.answer) == (agent.name, "It is in the handbook [1].")
        kinds = {source["kind"] for source in result.sources if source["used"]}
        assert {"table_rag": "rows", "multimodal_rag": "image"}.get(agent.name, "text") in kinds


@pytest.mark.slow
def test_the_demo_answers_with_the_real_model_and_a_second_run_takes_seconds(tmp_path):
    site, port = Site(tmp_path / "var"), free_port()
    with started(site, port) as first:
        first.read_until("Ctrl-C")
        key = re.search(r"API key +(\S+)", first.output)[1]
        assert re.search(r"Sign in +operator / \S{12,}", first.output)
        assert re.search(r"by \w+_rag in [\d.]+ s", first.output)
        assert re.search(r"\[1\] \S+", first.output)
        address = Address(host="127.0.0.1", port=port)
        status, answer = address.call("POST", "/api/query", key=key, body={"question": "What is a prior?"}, timeout=120)
        assert status == 200
        assert answer["answer"].strip()
        assert answer["sources"]
        assert answer["fallback"] is None
        for agent, kind in (("table_rag", "rows"), ("multimodal_rag", "image")):
            body = {"question": SAMPLED[agent]}
            status, answer = address.call("POST", f"/api/query/{agent}", key=key, body=body, timeout=120)
            assert (status, answer["agent"]) == (200, agent)
            assert kind in {source["kind"] for source in answer["sources"] if source["used"]}
        assert address.call("GET", "/api/health")[1]["status"] == "ok"
        taken = Site(site.folder).manage("demo", "--port", free_port())
        assert taken.returncode == 1
        assert "already runs on" in taken.stderr
        first.process.send_signal(signal.SIGINT)
        assert first.finish() == 0
    assert first.survivors() == []
    assert free(port)

    with started(site, port, "--once") as second:
        assert second.finish(STARTED_WITHIN) == 0
    assert "shown when the account was made" in second.output
    assert "api_key create operator" in second.output
    documents = site.rows("SELECT count(*) FROM agents_document")
    assert documents == [(len(demo.knowledge()),)]
    assert free(port)

    with started(site, port) as third:
        third.read_until("Ctrl-C")
        assert site.rows("SELECT count(*) FROM agents_agentvariant") == [(len(DEFAULT_AGENTS) + len(demo.SAMPLE_AGENTS),)]
        web = next(process for process in third.descendants if "uvicorn" in " ".join(process.cmdline()))
        web.kill()
        third.read_until("web was ended by SIGKILL")
        wait_until_answered(address)
        third.descendants = psutil.Process(third.process.pid).children(recursive=True)
        os.kill(third.process.pid, signal.SIGKILL)
        third.process.wait()
    assert third.survivors() == []


def wait_until_answered(address: Address) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if address.call("GET", "/api/health?live=1")[0] == 200:
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
