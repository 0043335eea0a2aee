"""What the other modules here hold on SQLite holds on PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import postgres_server

HERE = Path(__file__).parent
MODULES = ("arms", "evidence", "feedback", "leaderboard", "log", "policies", "promotions", "rollup", "router")


@pytest.mark.slow
@pytest.mark.postgres
def test_routing_feedback_and_log_behave_the_same_on_postgresql(tmp_path):
    with postgres_server() as server:
        environment = os.environ | {"DATABASE_URL": server.url("postgres"), "ADAPTRAG_DATA_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command += [str(HERE / f"test_{name}.py") for name in MODULES]
        done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
