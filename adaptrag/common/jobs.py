"""Long tasks: what apps call to register, start, stop and repeat them.

docs/decisions/0001-jobs.md says why the queue carries only a row's id and what happens when processes die.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_q.tasks import async_task

from adaptrag.common.context import JobContext
from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.lease import JobCancelled, JobSuperseded, Lease, claim, log_with
from adaptrag.common.models import Job
from adaptrag.common.processes import process_name
from adaptrag.common.registry import Handler, handler_for, register
from adaptrag.common.runner import run_here, run_in_child

__all__ = [
    "Handler",
    "JobCancelled",
    "JobContext",
    "JobSuperseded",
    "handler_for",
    "job_cancel",
    "job_enqueue",
    "job_retry",
    "job_run",
    "job_run_child",
    "job_send",
    "register",
]

TASK = "adaptrag.common.tasks.job_run"
BACKSTOP = 60  # seconds over a light job's own limit after which django-q ends a worker that is stuck in C code
NO_TIMEOUT = -1  # django-q's word for it


def job_enqueue(kind: str, payload: dict[str, Any], *, title: str = "", idempotency_key: str = "", user: Any = None) -> Job:
    """Make a job and put it on the queue when the surrounding transaction commits.

    A queued or running job with the same idempotency key is returned instead. With ADAPTRAG_JOBS_EAGER the job runs here and
    now, and is returned ended. Raises InvalidInput for an unknown kind.
    """
    handler = handler_for(kind)
    try:
        with transaction.atomic():
            job = Job.objects.create(
                kind=kind,
                title=title[:200],
                payload=payload,
                max_attempts=handler.max_attempts,
                idempotency_key=idempotency_key,
                created_by=user if getattr(user, "pk", None) else None,
            )
    except IntegrityError:
        live = Job.objects.filter(idempotency_key=idempotency_key, state__in=Job.LIVE).first() if idempotency_key else None
        if live is None:
            raise
        return live
    return _start(job)


def job_cancel(job: Job) -> Job:
    """Cancel a queued job at once, ask a running one to stop, leave an ended one alone. Returns the row as it is now."""
    now = timezone.now()
    cancelled = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(
        state=Job.State.CANCELLED, finished_at=now, log=log_with("cancelled before it started")
    )
    if not cancelled:
        asked = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, cancel_requested=False)
        asked.update(cancel_requested=True, log=log_with("cancel asked"))
    job.refresh_from_db()
    # The reaper may have put it back on the queue between the two updates.
    return job_cancel(job) if job.state == Job.State.QUEUED else job


def job_retry(job: Job, user: Any = None) -> Job:
    """Queue a failed or cancelled job again; it goes on from its checkpoint. Raises Conflict in any other state."""
    handler = handler_for(job.kind)
    by = f" by {user}" if user else ""
    try:
        with transaction.atomic():
            queued = Job.objects.filter(pk=job.pk, state__in=[Job.State.FAILED, Job.State.CANCELLED]).update(
                state=Job.State.QUEUED,
                max_attempts=job.attempt + handler.max_attempts,
                cancel_requested=False,
                queued_at=timezone.now(),
                finished_at=None,
                error="",
                traceback="",
                message="",
                log=log_with(f"queued again{by}"),
            )
    except IntegrityError:
        raise Conflict(
            f"Another job with the key {job.idempotency_key!r} is queued or running. Wait for its end, or cancel it first.",
            job=job.pk,
        ) from None
    job.refresh_from_db()
    if not queued:
        raise Conflict(f"Job {job.pk} is {job.state}; only a failed or cancelled job can be retried.", job=job.pk)
    return _start(job)


def _start(job: Job) -> Job:
    if settings.ADAPTRAG_JOBS_EAGER:
        job_run(job.pk)
        job.refresh_from_db()
    else:
        # robust: the row is there; if the message can't be written now, the reaper sends it.
        transaction.on_commit(lambda: job_send(job.pk, handler_for(job.kind)), robust=True)
    return job


def job_send(job_id: int, handler: Handler) -> None:
    """Put a message with the job's id on the handler's queue. A message too many does no harm: only one claim succeeds."""
    timeout = NO_TIMEOUT if handler.heavy else int(handler.seconds) + BACKSTOP
    async_task(
        TASK, job_id, task_name=f"job {job_id} {handler.kind}"[:100], q_options={"cluster": handler.queue, "timeout": timeout}
    )


def job_run(job_id: int, *, here: bool = False, on_progress: Callable[[float, str], None] | None = None) -> str:
    """Claim a queued job and run it to its end; returns its state. A job that isn't queued is left alone.

    here: run it in this process whatever its kind, without a time limit.
    """
    lease = claim(job_id)
    if lease is not None:
        _run(lease, here=here, on_progress=on_progress)
    return Job.objects.filter(pk=job_id).values_list("state", flat=True).first() or "deleted"


def _run(lease: Lease, *, here: bool, on_progress: Callable[[float, str], None] | None) -> None:
    try:
        handler = handler_for(lease.rows().values_list("kind", flat=True).get())
    except InvalidInput as error:
        lease.finish(Job.State.FAILED, error=error.message)
        return
    eager = settings.ADAPTRAG_JOBS_EAGER
    if here or eager:
        run_here(lease, handler, heartbeat=not eager, on_progress=on_progress)
    elif handler.heavy:
        run_in_child(lease, limit=handler.seconds)
    else:
        run_here(lease, handler, limit=handler.seconds)


def job_run_child(job_id: int, attempt: int) -> None:
    """Run the attempt that this process's parent has claimed. Raises Conflict if the parent doesn't hold it."""
    lease = Lease(job_id=job_id, attempt=attempt)
    job = lease.rows().filter(worker=process_name(os.getppid())).first()
    if job is None:
        raise Conflict(f"Attempt {attempt} of job {job_id} isn't held by the process that started this one.", job=job_id)
    run_here(lease, handler_for(job.kind), heartbeat=False, child=True)
