from __future__ import annotations

import os
import subprocess
from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from adaptrag.common import jobs
from adaptrag.common.lease import claim
from adaptrag.common.models import Job
from adaptrag.common.processes import process_is_gone, process_name
from adaptrag.common.reaper import Reaped, jobs_clean, jobs_reap
from adaptrag.common.registry import HANDLERS
from adaptrag.common.selectors import queue_status

pytestmark = pytest.mark.django_db
State = Job.State
AGES_AGO = timedelta(hours=1)


@pytest.fixture(autouse=True)
def kind():
    jobs.register("tested", lambda context: None, queue="long")
    yield
    HANDLERS.pop("tested")


@pytest.fixture
def gone() -> str:
    """The name of a process that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    name = process_name(process.pid)
    process.kill()
    process.wait()
    return name


def running(**fields) -> Job:
    job = Job.objects.create(kind="tested")
    claim(job.pk)
    Job.objects.filter(pk=job.pk).update(**fields)
    job.refresh_from_db()
    return job


def test_a_process_is_gone_when_it_is_killed_even_while_it_waits_to_be_reaped():
    process = subprocess.Popen(["sleep", "60"])
    name = process_name(process.pid)
    assert not process_is_gone(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert process_is_gone(name)
    process.wait()
    assert process_is_gone(name)


def test_a_number_that_another_process_has_by_now_and_another_machine_are_told_apart():
    mine = process_name(os.getpid())
    assert not process_is_gone(mine)
    assert process_is_gone(mine.rpartition(".")[0] + ".1")
    assert not process_is_gone("elsewhere:1@01234567.1")
    assert not process_is_gone("") and not process_is_gone("by hand")


def test_live_jobs_are_left_alone():
    running()
    running(worker="elsewhere:1@01234567.1")
    assert jobs_reap() == Reaped()


def test_a_silent_job_goes_back_on_the_queue():
    job = running(worker="elsewhere:1@01234567.1", heartbeat=timezone.now() - AGES_AGO)
    assert jobs_reap() == Reaped(requeued=1)
    job.refresh_from_db()
    assert (job.state, job.attempt) == (State.QUEUED, 1)
    assert "its process elsewhere:1 stopped without a word" in job.log
    assert [(row.key, row.task["args"]) for row in OrmQ.objects.all()] == [("long", (job.pk,))]
    assert jobs_reap() == Reaped()


def test_a_job_whose_process_is_gone_need_not_fall_silent_first(gone):
    running(worker=gone)
    assert jobs_reap() == Reaped(requeued=1)


def test_a_job_without_attempts_left_is_failed_with_the_reason(gone):
    job = running(worker=gone, max_attempts=1)
    assert jobs_reap() == Reaped(failed=1)
    job.refresh_from_db()
    assert job.state == State.FAILED and "stopped without a word 1 times" in job.error
    assert job.finished_at and job.seconds is not None


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(gone):
    job = running(worker=gone, cancel_requested=True)
    assert jobs_reap() == Reaped(cancelled=1)
    job.refresh_from_db()
    assert job.state == State.CANCELLED


def test_a_queued_job_gets_one_new_message_when_none_can_be_taken():
    fresh = Job.objects.create(kind="tested")
    lost = Job.objects.create(kind="tested", queued_at=timezone.now() - AGES_AGO)
    taken = Job.objects.create(kind="tested", queued_at=timezone.now() - AGES_AGO)
    waiting = Job.objects.create(kind="tested", queued_at=timezone.now() - AGES_AGO)
    for job in (taken, waiting):
        jobs.job_send(job.pk, HANDLERS["tested"])
    # A cluster took it and was killed: locked for hours.
    row = next(row for row in OrmQ.objects.all() if row.task["args"] == (taken.pk,))
    OrmQ.objects.filter(pk=row.pk).update(lock=timezone.now() + AGES_AGO)

    assert jobs_reap() == Reaped(resent=2)
    assert jobs_reap() == Reaped()
    sent = sorted(row.task["args"][0] for row in OrmQ.objects.all())
    assert sent == sorted([lost.pk, taken.pk, taken.pk, waiting.pk]) and fresh.pk not in sent


def test_a_queued_job_whose_app_is_gone_is_failed():
    job = Job.objects.create(kind="magic", queued_at=timezone.now() - AGES_AGO)
    assert jobs_reap() == Reaped()
    job.refresh_from_db()
    assert job.state == State.FAILED and "No installed app handles" in job.error


def test_old_ended_jobs_are_cleared_away(settings):
    old = timezone.now() - timedelta(days=31)
    for state in State:
        Job.objects.create(kind="tested", state=state, finished_at=old, created_at=old)
    Job.objects.create(kind="tested", state=State.FAILED, finished_at=timezone.now())
    settings.ADAPTRAG_JOBS_KEEP_DAYS = 0
    assert jobs_clean() == 0
    settings.ADAPTRAG_JOBS_KEEP_DAYS = 30
    assert jobs_clean() == 3
    assert sorted(Job.objects.values_list("state", flat=True)) == ["failed", "queued", "running"]


def test_a_queue_that_nobody_serves_is_told_with_the_remedy():
    assert queue_status() == []
    Job.objects.create(kind="tested")
    assert [queue.stalled for queue in queue_status()] == [False]
    Job.objects.create(kind="tested", queued_at=timezone.now() - AGES_AGO)
    (queue,) = queue_status()
    assert (queue.name, queue.queued, queue.running, queue.stalled) == ("long", 2, 0, True)
    assert queue.remedy == "Q_CLUSTER_NAME=long python manage.py qcluster"
    running()
    assert [queue.stalled for queue in queue_status()] == [False]
