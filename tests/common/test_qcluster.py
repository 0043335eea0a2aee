from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
from django.core.management import CommandError, call_command, get_commands

from adaptrag.common.cluster import ProcessLock


def test_the_site_s_own_cluster_takes_the_place_of_django_q_s():
    assert get_commands()["qcluster"] == "adaptrag"


def test_a_queue_named_on_the_command_line_is_the_one_served(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr("adaptrag.management.commands.qcluster.JobCluster.start", lambda self: None)
    monkeypatch.setattr("adaptrag.management.commands.qcluster.JobCluster.__init__", lambda self: None)
    monkeypatch.delenv("Q_CLUSTER_NAME", raising=False)
    call_command("qcluster")
    assert started == []
    call_command("qcluster", name="long")
    assert started[0][2]["Q_CLUSTER_NAME"] == "long"


def test_a_queue_that_there_is_not_is_refused():
    with pytest.raises(CommandError, match=r"no queue 'lnog'. Known: default, long"):
        call_command("qcluster", name="lnog")


def test_a_lock_comes_back_from_a_killed_holder():
    lock = ProcessLock()
    held = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        lock.acquire()
        held.set()
        time.sleep(600)

    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    assert held.wait(60)
    assert not lock.acquire(block=False)
    assert not lock.acquire(timeout=0.05)
    os.kill(holder.pid, signal.SIGKILL)
    with lock:
        holder.join()
