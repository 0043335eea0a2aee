"""Looking after jobs whose process or whose queue message got lost, and clearing away old ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone
from django_q.models import OrmQ

from adaptrag.common.errors import InvalidInput
from adaptrag.common.jobs import TASK, handler_for, job_send
from adaptrag.common.lease import log_with
from adaptrag.common.models import Job
from adaptrag.common.processes import process_is_gone

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """How many jobs a round queued again, failed, cancelled, and sent a second message for."""

    requeued: int = 0
    failed: int = 0
    cancelled: int = 0
    resent: int = 0


def jobs_reap() -> Reaped:
    """Take running jobs away from processes that are gone, and queue them again while they have attempts left.

    A process is gone if it ran on this machine and is no more, or if its heartbeat is older than ADAPTRAG_JOBS_LOST_AFTER.
    Safe to run at any time and in several processes at once: every change is a conditional update.
    """
    now = timezone.now()
    oldest = now - timedelta(seconds=settings.ADAPTRAG_JOBS_LOST_AFTER)
    ends = [
        _take_away(job, now)
        for job in Job.objects.filter(state=Job.State.RUNNING).defer("log", "traceback", "checkpoint", "result")
        if job.heartbeat is None or job.heartbeat < oldest or process_is_gone(job.worker)
    ]
    return Reaped(
        requeued=ends.count(Job.State.QUEUED),
        failed=ends.count(Job.State.FAILED),
        cancelled=ends.count(Job.State.CANCELLED),
        resent=_resend(oldest),
    )


def _take_away(job: Job, now: datetime) -> Job.State | None:
    """Returns the job's new state; None if it changed meanwhile or its handler is no longer installed and it was failed."""
    where = job.worker.partition("@")[0]
    seen = f"{timezone.localtime(job.heartbeat):%Y-%m-%d %H:%M:%S}" if job.heartbeat else "never"
    lost = f"attempt {job.attempt} was lost: its process {where} stopped without a word, last heartbeat {seen}"
    fields: dict[str, object] = {"log": log_with(lost)}
    if job.cancel_requested:
        state = Job.State.CANCELLED
    elif job.attempt < job.max_attempts:
        state = Job.State.QUEUED
        fields |= {"queued_at": now, "message": f"Queued again: {lost}."}
    else:
        state = Job.State.FAILED
        fields["error"] = (
            f"Its process stopped without a word {job.attempt} times, the last time {where} (last heartbeat {seen}). "
            "It may bring its worker down: see the workers' log and `dmesg`, then retry."
        )
    if state != Job.State.QUEUED:
        fields |= {"finished_at": now, "seconds": (now - job.started_at).total_seconds() if job.started_at else None}
    same = Job.objects.filter(
        pk=job.pk,
        state=Job.State.RUNNING,
        attempt=job.attempt,
        heartbeat=job.heartbeat,
        cancel_requested=job.cancel_requested,
    )
    if not same.update(state=state, **fields):
        return None
    logger.warning("job %s (%s): %s; now %s", job.pk, job.kind, lost, state)
    if state == Job.State.QUEUED:
        _send(job)
    return state


def _send(job: Job) -> bool:
    try:
        job_send(job.pk, handler_for(job.kind))
    except InvalidInput as error:
        queued = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED)
        queued.update(state=Job.State.FAILED, finished_at=timezone.now(), error=error.message)
        return False
    return True


def _resend(oldest: datetime) -> int:
    """Send a message for each job queued before `oldest` that has none which a worker could still take.

    A message that a cluster took before it was killed stays locked for `retry` seconds, 20 hours on `long`: it doesn't count.
    """
    waiting = list(Job.objects.filter(state=Job.State.QUEUED, queued_at__lt=oldest).only("pk", "kind"))
    if not waiting:
        return 0
    messages = (message.task for message in OrmQ.objects.filter(lock__lte=timezone.now()))
    there = {message["args"][0] for message in messages if message.get("func") == TASK}
    return sum(_send(job) for job in waiting if job.pk not in there)


def jobs_clean() -> int:
    """Delete jobs that ended more than ADAPTRAG_JOBS_KEEP_DAYS ago (0 keeps all); returns how many rows went."""
    days = settings.ADAPTRAG_JOBS_KEEP_DAYS
    if not days:
        return 0
    limit = timezone.now() - timedelta(days=days)
    return Job.objects.filter(state__in=Job.ENDED, finished_at__lt=limit).delete()[0]
