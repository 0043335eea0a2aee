"""doctor names what does not work, with the fix, and tells programs so by its exit code."""

from __future__ import annotations

import json
import socket

import pytest

from tests.ops.site import Site

AGENTS = """
from agents.services import agent_register, collection_get_or_create
collection_get_or_create("default")
agent_register(name="quick", strategy="naive_rag", chat_backend="scripted", chat_options={"answer": "yes"})
agent_register(name="far", strategy="naive_rag", chat_backend="openai_compatible", chat_model="m",
               chat_options={"base_url": "http://127.0.0.1:%d/v1", "api_key_env": "FAR_API_KEY"})
"""


def examined(site: Site, *words: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit code, and by topic each finding's state with its message and fix."""
    done = site.manage("doctor", "--json", *words)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    findings: dict[str, list[tuple[str, str]]] = {}
    for finding in result["findings"]:
        findings.setdefault(finding["topic"], []).append((finding["state"], f"{finding['message']} {finding['fix']}"))
    assert result["ok"] == (done.returncode == 0)
    assert result["failed"] == sum(finding["state"] == "fail" for finding in result["findings"])
    return done.returncode, findings


def test_an_empty_site_lacks_agents_and_documents_and_is_told_what_to_do(site):
    code, findings = examined(site, "--port", "1")
    assert code == 1
    assert findings["agents"][0][0] == "fail"
    assert "ingest" in findings["documents"][0][1]
    assert findings["web"][0] == ("warn", findings["web"][0][1])
    assert "port 1 " in findings["web"][0][1]
    for topic in ("python", "packages", "data folder", "database", "migrations"):
        assert [state for state, _ in findings[topic]] == ["ok"], topic


def test_a_database_without_its_tables_is_found_before_what_needs_it(tmp_path):
    code, findings = examined(Site(tmp_path / "var"))
    assert code == 1
    assert findings["migrations"][0][0] == "fail"
    assert "manage.py migrate" in findings["migrations"][0][1]
    assert "agents" not in findings


def test_a_database_that_cannot_be_reached_is_named(tmp_path):
    code, findings = examined(Site(tmp_path / "var", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"))
    assert code == 1
    assert findings["database"][0][0] == "fail"
    assert "DATABASE_URL" in findings["database"][0][1]


def test_a_model_server_is_looked_for_at_the_address_of_each_agent(site):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert site.start(AGENTS % port).wait() == 0
        code, findings = examined(site)
        assert code == 1
        assert [state for state, _ in findings["model server"]] == ["fail"]
        server.listen()
        site.environment["FAR_API_KEY"] = "k"
        code, findings = examined(site)
    assert [state for state, _ in findings["model server"]] == ["ok"]
    assert code == 0, findings


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ADAPTRAG_WEB_THREADS", "0", "ADAPTRAG_WEB_THREADS is 0"),
        ("ADAPTRAG_THROTTLE_KEY", "often", "no rate"),
        ("ADAPTRAG_DEBUG", "true", "DEBUG is on"),
    ],
)
def test_wrong_settings_are_named(site, variable, value, told):
    site.environment[variable] = value
    _, findings = examined(site)
    assert any(told in message for _, message in findings["settings"])


def test_what_restores_left_behind_is_mentioned(site):
    (site.folder / "replaced-20260101-000000").mkdir()
    _, findings = examined(site)
    assert ("warn" in dict(findings["data folder"])) and "replaced-20260101-000000" in findings["data folder"][1][1]
