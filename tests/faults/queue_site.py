"""A site of its own with a real queue: its clusters are started, killed and looked into from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ops.site import ROOT, Site

PATIENCE = 90.0  # seconds; only a broken queue takes that long, however busy the machine is

# Reads one Python expression a line, in a process of the site, and answers with JSON.
DRIVER = """
import django, json, sys
django.setup()
from datetime import timedelta
from django.core.management import call_command
from django.utils import timezone
from django_q.models import OrmQ
from adaptrag.common.jobs import job_cancel, job_enqueue, job_retry, job_send
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from adaptrag.common.registry import handler_for
from tests.faults.queue_app.handlers import claims_won
for line in sys.stdin:
    print(json.dumps(eval(json.loads(line)), default=str), flush=True)
"""


class QueueSite(Site):
    def __init__(self, folder: Path, **environment: str) -> None:
        super().__init__(folder, DJANGO_SETTINGS_MODULE="tests.faults.queue_app.settings", **environment)
        self._processes: list[subprocess.Popen[str]] = []
        self._driver: subprocess.Popen[str] | None = None

    def copy(self, folder: Path) -> QueueSite:
        shutil.copytree(self.folder, folder)
        return QueueSite(folder)

    def ask(self, expression: str) -> Any:
        """Evaluate an expression in a process of the site."""
        if self._driver is None:
            self._driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._processes.append(self._driver)
        self._driver.stdin.write(json.dumps(expression) + "\n")
        self._driver.stdin.flush()
        answer = self._driver.stdout.readline()
        assert answer, f"the driver died of {expression}"
        return json.loads(answer)

    def enqueue(self, kind: str, **payload: Any) -> int:
        payload.setdefault("trace", str(self.folder / f"trace-{time.monotonic_ns()}"))
        return self.ask(f"job_enqueue({kind!r}, {payload!r}).pk")

    def enqueue_held(self, kind: str, **payload: Any) -> tuple[int, Path]:
        """A job that waits before its second step until the returned file exists."""
        gate = self.folder / f"gate-{time.monotonic_ns()}"
        return self.enqueue(kind, steps=4, gate=str(gate), **payload), gate

    def job(self, number: int) -> dict[str, Any]:
        return self.ask(f"Job.objects.filter(pk={number}).values().get()")

    def trace(self, number: int) -> list[tuple[str, int]]:
        """(event, process) of everything that a job's handler did."""
        path = Path(self.job(number)["payload"]["trace"])
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def until(self, number: int, met: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        return until(lambda: met(job := self.job(number)) and job, f"job {number} {what}")

    def until_ended(self, number: int) -> dict[str, Any]:
        return self.until(number, lambda job: job["state"] in ("succeeded", "failed", "cancelled"), "ended")

    def until_stepped(self, number: int) -> dict[str, Any]:
        """Wait until the job has kept its first checkpoint."""
        return self.until(number, lambda job: job["checkpoint"], "stepping")

    def start_cluster(self, name: str = "default") -> subprocess.Popen[str]:
        log = (self.folder / f"cluster-{name}.log").open("a")
        with log:
            cluster = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "qcluster"],
                env=self.environment | {"Q_CLUSTER_NAME": name},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._processes.append(cluster)
        return cluster

    def workers(self) -> list[int]:
        """The processes that take tasks, as far as they live."""
        log = (self.folder / "cluster-default.log").read_text()
        return [pid for pid in map(int, re.findall(r"ready for work at (\d+)", log)) if is_alive(pid)]

    def close(self) -> None:
        for process in self._processes:
            kill_tree(process.pid)
            process.wait()


def until(met: Callable[[], Any], what: str) -> Any:
    """Wait for a true value and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := met():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not after {PATIENCE} s: {what}")


def children(pid: int) -> list[int]:
    """Every living descendant of a process, however they are grouped (proc(5), task/<tid>/children)."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all under it, at one blow: none gets to tidy up or to replace another."""
    family = [pid, *children(pid)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, number)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
