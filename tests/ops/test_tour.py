"""The calls in the README and the handbook, typed as they stand there, against a real web server."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.ops.site import ROOT

pytestmark = pytest.mark.slow

PAGES = ["README.md", "docs/api.md", "docs/documents.md"]


def blocks(name: str, language: str) -> list[str]:
    """Code blocks of a page that call the site."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if re.search(r"\$ADAPTRAG|^\S+ manage\.py|requests", block, re.MULTILINE)]


def typed(command: list[str], running, folder) -> str:
    environment = running.site.environment | {"ADAPTRAG": running.address.url(""), "KEY": running.key, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """Where the calls are typed: with the files that they name."""
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "tea.md").write_text("# Tea\n\nTea is served at four.\n")
    (tmp_path / "handbook.md").write_text("# Handbook\n\nEverything that one must know.\n")
    (tmp_path / "notes.md").write_text("# Notes\n\nA note.\n")
    return tmp_path


@pytest.fixture
def interaction(running) -> str:
    status, answer = running.address.call(
        "POST", "/api/query", key=running.key, body={"question": "What is an arm?"}, timeout=60
    )
    assert status == 200, answer
    return answer["interaction_id"]


@pytest.mark.parametrize("name", PAGES)
def test_the_shell_calls_of_the_page_work_as_written(name, running, folder, interaction):
    found = blocks(name, "sh")
    assert found
    here = {
        '"..."': f'"{interaction}"',
        "<interaction_id of an answer>": interaction,
        "~/handbook": "handbook",
        ".venv/bin/python manage.py doctor": "echo",  # it rightly finds that no queue runs here
        ".venv/bin/python manage.py": f"{sys.executable} {ROOT}/manage.py",
    }
    for block in found:
        for written, meant in here.items():
            block = block.replace(written, meant)
        out = typed(["bash", "-euc", block], running, folder)
        assert out.strip()
        assert not re.search(r'"error": ?\{|^event: error', out, re.MULTILINE), (block, out)


@pytest.mark.parametrize("name", ["README.md", "docs/api.md"])
def test_the_python_calls_of_the_page_work_as_written(name, running, folder):
    found = blocks(name, "python")
    assert found
    for block in found:
        assert "handbook" in typed([sys.executable, "-c", block], running, folder)
