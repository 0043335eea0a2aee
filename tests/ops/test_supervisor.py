"""Children are restarted, reported, and ended with everything that they started, even when the supervisor is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptrag.ops.supervisor import Program, Supervisor
from tests.ops.site import ROOT

# A child with a child of its own, both of which write their process ids and wait.
FAMILY = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(300)
"""


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path, lines):
    made = Supervisor(tmp_path / "logs", lines.append)
    yield made
    made.stop(grace=1)


def family(supervisor: Supervisor) -> list[int]:
    wait_for(lambda: supervisor.log("family").read_text().count("\n"))
    return [int(pid) for pid in supervisor.log("family").read_text().split()[-2:]]


def test_a_child_that_dies_is_reported_and_started_again(supervisor, lines):
    supervisor.start(Program(name="family", command=[sys.executable, "-c", FAMILY]))
    first, grandchild = family(supervisor)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not alive(first))
    supervisor.watch()
    assert lines[0].startswith("family was ended by SIGKILL; starting it again in 1 s.")
    wait_for(lambda: not alive(grandchild))
    wait_for(lambda: supervisor.watch() or supervisor.pids()["family"] != first)
    wait_for(lambda: supervisor.log("family").read_text().count("\n") == 2)
    assert len(lines) == 1


def test_the_pause_between_restarts_grows(supervisor, lines):
    supervisor.start(Program(name="broken", command=[sys.executable, "-c", "raise SystemExit('no such model')"]))
    wait_for(lambda: supervisor.watch() or len(lines) == 2)
    assert ["in 1 s" in lines[0], "in 2 s" in lines[1]] == [True, True]
    assert "exit code 1" in lines[0]
    assert supervisor.tail("broken").splitlines()[-1] == "no such model"


def test_stop_ends_a_child_that_ignores_the_request_and_what_it_started(supervisor):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FAMILY
    supervisor.start(Program(name="family", command=[sys.executable, "-c", stubborn]))
    pids = family(supervisor)
    began = time.monotonic()
    supervisor.stop(grace=1)
    assert time.monotonic() - began < 5
    wait_for(lambda: not any(alive(pid) for pid in pids))


def test_the_programs_of_a_child_see_its_environment(supervisor):
    supervisor.start(
        Program(
            name="env", command=[sys.executable, "-c", "import os; print(os.environ['MARK'])"], environment={"MARK": "here"}
        )
    )
    wait_for(lambda: supervisor.log("env").read_text() == "here\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_end_when_the_supervisor_is_killed(tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from adaptrag.ops.supervisor import Program, Supervisor
supervisor = Supervisor(Path({str(tmp_path)!r}), print)
supervisor.start(Program(name="child", command=[sys.executable, "-c", "import time; time.sleep(300)"]))
print(supervisor.pids()["child"], flush=True)
time.sleep(300)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child))
