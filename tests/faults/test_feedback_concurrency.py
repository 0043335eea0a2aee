"""16 processes x 200 feedbacks at once lose nothing, count nothing twice and fail never, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.ops.site import ROOT, Site
from tests.postgres import postgres_server

PROCESSES, EACH = 16, 200


@pytest.mark.slow
def test_concurrent_feedback_is_exact_on_one_sqlite_file(tmp_path):
    _check(_load(Site(tmp_path / "var")))


@pytest.mark.slow
@pytest.mark.postgres
def test_concurrent_feedback_is_exact_on_postgresql(tmp_path):
    with postgres_server() as server:
        _check(_load(Site(tmp_path / "var", DATABASE_URL=server.create_database("feedback"))))


def _load(site: Site) -> dict[str, Any]:
    migrated = site.manage("migrate", "-v", "0")
    assert migrated.returncode == 0, migrated.stderr
    command = [sys.executable, "-m", "tests.faults.feedback_load", str(PROCESSES), str(EACH)]
    done = subprocess.run(command, env=site.environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    print(f"{PROCESSES * EACH / outcome['seconds']:.0f} feedbacks/s beside {outcome['rebuilt']} rebuilds")
    return outcome


def _check(outcome: dict[str, Any]) -> None:
    reports = outcome["reports"]
    assert outcome["exit_codes"] == [0] * PROCESSES
    assert [error for report in reports for error in report["errors"]] == []
    assert sum(sum(report["outcomes"].values()) for report in reports) == PROCESSES * EACH
    assert sum(report["outcomes"].get("created", 0) for report in reports) == len(outcome["rewards"])
    assert outcome["rewards"].keys() == {key for report in reports for key in report["last"]}
    for report in reports:
        own = {key: value for key, value in report["last"].items() if not key.endswith(" shared")}
        assert own == {key: outcome["rewards"][key] for key in own}
    assert outcome["ratings"] == len(outcome["rewards"])
    for arms in (outcome["arms"], outcome["arms_rebuilt"], outcome["log"], outcome["log_rebuilt"]):
        assert arms.keys() == outcome["expected"].keys()
        for key, (pulls, total, squares) in outcome["expected"].items():
            assert arms[key][0] == pulls
            assert arms[key][1:] == pytest.approx([total, squares], abs=1e-9)
