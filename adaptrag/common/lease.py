"""Who runs a job: the claim, and the writes that only the holder of the newest attempt can make."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import F, QuerySet, TextField, Value
from django.db.models.functions import Concat, Right
from django.utils import timezone

from adaptrag.common.models import Job
from adaptrag.common.processes import process_name

logger = logging.getLogger(__name__)

LOG_CHARACTERS = 64_000
LINE_CHARACTERS = 2_000


class JobCancelled(BaseException):
    """Cancel was asked. Not an Exception, so that a handler's `except Exception` around one item can't swallow it."""


class JobSuperseded(JobCancelled):
    """The row belongs to another attempt by now: this one may write nothing more and should stop."""


def log_with(line: str) -> Right:
    """The expression that appends a line to `Job.log` and keeps its newest 64,000 characters, without reading it first."""
    stamped = f"{timezone.localtime():%Y-%m-%d %H:%M:%S} {line.rstrip()[:LINE_CHARACTERS]}\n"
    return Right(Concat(F("log"), Value(stamped), output_field=TextField()), LOG_CHARACTERS)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run one attempt of a job."""

    job_id: int
    attempt: int

    def rows(self) -> QuerySet[Job]:
        """The job's row while this attempt is the running one, else nothing."""
        return Job.objects.filter(pk=self.job_id, attempt=self.attempt, state=Job.State.RUNNING)

    def write(self, **fields: Any) -> None:
        """Change the row. Raises JobSuperseded if it isn't this attempt's any more."""
        if not self.rows().update(**fields):
            raise JobSuperseded(f"Attempt {self.attempt} of job {self.job_id} is over.")

    def beat(self) -> bool:
        """Say that the holder lives; returns whether cancel was asked. Raises JobSuperseded."""
        self.write(heartbeat=timezone.now())
        return self.cancel_requested()

    def cancel_requested(self) -> bool:
        asked = self.rows().values_list("cancel_requested", flat=True).first()
        if asked is None:
            raise JobSuperseded(f"Attempt {self.attempt} of job {self.job_id} is over.")
        return asked

    def finish(self, state: Job.State, **fields: Any) -> None:
        """Write the attempt's end. Raises JobSuperseded."""
        now = timezone.now()
        started = self.rows().values_list("started_at", flat=True).first()
        seconds = (now - started).total_seconds() if started else None
        self.write(state=state, finished_at=now, heartbeat=now, seconds=seconds, **fields)
        error = fields.get("error")
        logger.log(
            logging.WARNING if state == Job.State.FAILED else logging.INFO,
            "job %s %s after %.1f s%s",
            self.job_id,
            state,
            seconds or 0,
            f": {error}" if error else "",
        )


def claim(job_id: int) -> Lease | None:
    """Take a queued job with one conditional UPDATE; None if another process has it, or it isn't queued."""
    attempt = Job.objects.filter(pk=job_id, state=Job.State.QUEUED).values_list("attempt", flat=True).first()
    if attempt is None:
        return None
    now = timezone.now()
    worker = process_name(os.getpid())
    taken = Job.objects.filter(pk=job_id, state=Job.State.QUEUED, attempt=attempt).update(
        state=Job.State.RUNNING,
        attempt=attempt + 1,
        worker=worker,
        heartbeat=now,
        started_at=now,
        finished_at=None,
        seconds=None,
        progress=0,
        message="",
        error="",
        traceback="",
        log=log_with(f"attempt {attempt + 1} starts on {worker.partition('@')[0]}"),
    )
    return Lease(job_id=job_id, attempt=attempt + 1) if taken else None


class Heartbeat:
    """Beats for a lease from a thread of its own for as long as the block runs, whatever the main thread does."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{lease.job_id}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.wait(settings.ADAPTRAG_JOBS_HEARTBEAT):
                try:
                    self._lease.beat()
                except JobSuperseded:
                    return  # the handler hears it from its own next write
                except DatabaseError:
                    logger.warning("job %s: the heartbeat was not written", self._lease.job_id, exc_info=True)
                    connection.close()
        finally:
            connection.close()
