"""The command and its children, killed with SIGKILL."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from django.conf import settings

from tests.ops.site import ROOT

pytestmark = pytest.mark.slow


def test_killed_children_and_a_killed_command_leave_a_run_that_ends_with_the_same_verdict(tmp_path, student):
    environment = os.environ | {
        "ADAPTRAG_DATA_DIR": str(tmp_path), "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings", "ADAPTRAG_GATE_REFERENCES": "5", "ADAPTRAG_TRAINING_THREADS": "1",
        "ADAPTRAG_LOCAL_THREADS": "1",
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", "from tests.loop.site import prepare; prepare()"], cwd=ROOT, env=environment, check=True
    )

    def improve(*words):
        return subprocess.Popen(
            [sys.executable, "manage.py", "improve", "--json", *words], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ask(query):
        with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3", timeout=10)) as database:
            return database.execute(query).fetchone()

    def until(condition, process):
        end = time.monotonic() + 120
        while not (found := condition()):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.05)
        return found

    def child_of(process):
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False)
        return int(listed.stdout.split()[0])

    first = improve("--model", str(student), "--steps", "40", "--top-k", "1")
    until(lambda: list(tmp_path.glob("training/runs/1/checkpoints/*/complete")), first)
    os.kill(child_of(first), signal.SIGKILL)
    told, words = first.communicate(timeout=60)
    assert (first.returncode, json.loads(told)["verdict"]) == (1, "failed")
    assert "signal 9, SIGKILL" in json.loads(told)["reason"] and "improve --resume 1" in words

    second = improve("--resume", "1")
    until(lambda: ask("SELECT COUNT(*) FROM evals_evalresult")[0], second)
    second.kill()  # the command itself; its child dies with it
    second.communicate(timeout=60)
    answered = ask("SELECT COUNT(*) FROM evals_evalresult")[0]

    third = improve("--resume", "1")
    told, words = third.communicate(timeout=120)
    result = json.loads(told)
    assert (third.returncode, result["verdict"], result["candidate"]) == (0, "promoted", "lora_rag r1"), words
    assert ask("SELECT COUNT(*) FROM training_trainingrun")[0] == ask("SELECT COUNT(*) FROM evals_evalrun")[0] == 1
    asked = ask("SELECT COUNT(*) FROM evals_evalresult")[0]
    assert 0 < answered < asked == ask("SELECT COUNT(DISTINCT question_id || ' ' || variant_id) FROM evals_evalresult")[0]
