from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from adaptrag.ops.demo import Address
from tests.ops.site import ROOT, Site

# The agents of a new site with a model that always says the same, so that the calls can be tested without weights.
SCRIPTED = """
from django.contrib.auth import get_user_model
from adaptrag.api.services import key_create
from agents.services.agents import DEFAULT_AGENTS, agent_register
for name in DEFAULT_AGENTS:
    agent_register(name=name, strategy=name, chat_backend="scripted", chat_options={"answer": "It is in the handbook."})
print(key_create(user=get_user_model().objects.create_superuser("operator"), name="tour", scope="operator")[1], flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A site whose web server answers, with the handbook as its knowledge base."""

    site: Site
    address: Address
    key: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Site:
    """A site with an empty database, made once; tests work on copies."""
    site = Site(tmp_path_factory.mktemp("migrated") / "var")
    done = site.manage("migrate", "-v", "0")
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def site(migrated, tmp_path) -> Site:
    return migrated.copy(tmp_path / "var")


@pytest.fixture(scope="session")
def handbook(migrated, tmp_path_factory) -> Site:
    """A site that has read the handbook, as the demo does."""
    site = migrated.copy(tmp_path_factory.mktemp("handbook") / "var")
    done = site.manage("ingest", *sorted((ROOT / "docs").glob("*.md")), "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rejected"] == []
    return site


@pytest.fixture(scope="session")
def running(handbook, tmp_path_factory) -> Running:
    site = handbook.copy(tmp_path_factory.mktemp("running") / "var")
    made = site.start(SCRIPTED)
    key = made.communicate(timeout=60)[0].strip()
    address = Address(host="127.0.0.1", port=free_port())
    command = [sys.executable, "-m", "uvicorn", "adaptrag.asgi:application", "--port", str(address.port), "--no-access-log"]
    log = site.folder / "web.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=site.environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if address.call("GET", "/api/health?live=1")[0] == 200:
                    break
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Running(site=site, address=address, key=key)
    finally:
        server.terminate()
        server.wait(20)
