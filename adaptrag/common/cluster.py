"""A django-q cluster that survives the kill of any of its workers, and of which nothing survives the kill of its first process.

docs/decisions/0001-jobs.md has the measurements.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from types import FrameType
from typing import Any

from django_q import cluster as django_q_cluster
from django_q.cluster import Cluster
from django_q.queues import Queue

from adaptrag.common.processes import die_with_parent


class ProcessLock:
    """A lock between processes that the kernel gives back when its holder dies (fcntl(2), record locks).

    It takes the place of multiprocessing's semaphore, which a killed holder keeps for good. Locks out processes, not threads.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 open for as long as the lock is there

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if block and timeout is None:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            return True
        end = time.monotonic() + (timeout or 0)
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not block or time.monotonic() >= end:
                    return False
                time.sleep(0.01)
            else:
                return True

    def release(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class TaskQueue(Queue):
    """An idle worker waits for its next task with the queue's read lock in its hand; others must get it when it is killed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rlock = ProcessLock()


class _FamilyTie:
    """Ties the guard to the first process and the workers to the guard; what a handler forks is its own affair."""

    def __init__(self) -> None:
        self._generation = 0

    def forked(self) -> None:
        self._generation += 1
        if self._generation <= 2:
            die_with_parent()


class JobCluster(Cluster):
    """Stops when the running jobs have ended; told so twice, at once: what was running goes on at the next start."""

    _told = False

    def start(self) -> int:
        django_q_cluster.Queue = TaskQueue
        os.register_at_fork(after_in_child=_FamilyTie().forked)
        return super().start()

    def sig_handler(self, signum: int, frame: FrameType | None) -> None:
        if self._told:
            os._exit(128 + signum)  # takes every process of the cluster along
        self._told = True
        if self.sentinel.is_alive() and signum == signal.SIGINT:
            print("Stopping when the running jobs have ended. Ctrl-C again stops now; they go on at the next start.")
        super().sig_handler(signum, frame)
