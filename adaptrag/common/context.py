"""What a handler sees of its job."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from adaptrag.common.lease import JobCancelled, Lease, log_with
from adaptrag.common.models import Job

logger = logging.getLogger(__name__)

WRITE_INTERVAL = 0.5  # seconds; a handler may report every item of a hundred thousand


class JobContext:
    """The handle of a running attempt. Each write is refused (JobSuperseded) once the attempt is over."""

    def __init__(self, lease: Lease, on_progress: Callable[[float, str], None] | None = None) -> None:
        job = Job.objects.get(pk=lease.job_id)
        self._lease = lease
        self._on_progress = on_progress
        self._checkpoint = job.checkpoint
        self._fraction = 0.0
        self._message = ""
        self._written_at = -math.inf
        self._lock = threading.Lock()
        self.job_id: int = lease.job_id
        self.payload: dict[str, Any] = job.payload

    def progress(self, fraction: float, message: str = "") -> None:
        """Report 0..1; never goes back within an attempt. Written at most twice a second.

        Raises JobCancelled when cancel was asked, JobSuperseded when another attempt has taken over.
        """
        if math.isnan(fraction):
            raise ValueError("progress is not a number; pass a fraction from 0 to 1")
        with self._lock:
            self._fraction = max(self._fraction, min(1.0, fraction))
            self._message = message[:500] or self._message
            if time.monotonic() - self._written_at < WRITE_INTERVAL:
                return
            self._written_at = time.monotonic()
            fields = self.reported()
        if self._on_progress:
            self._on_progress(self._fraction, self._message)
        self._lease.write(heartbeat=timezone.now(), **fields)
        if self._lease.cancel_requested():
            raise JobCancelled(f"Cancel was asked for job {self.job_id}.")

    def reported(self) -> dict[str, Any]:
        """The newest progress and message, written or not."""
        return {"progress": self._fraction, "message": self._message}

    def log(self, line: str) -> None:
        """Append a line to the job's log (its newest 64,000 characters stay) and to the process's."""
        logger.info("job %s: %s", self.job_id, line)
        self._lease.write(log=log_with(line))

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """What the newest save_checkpoint kept, by this attempt or an earlier one."""
        return self._checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep a JSON dict that the next attempt starts from. Raises TypeError or ValueError for what JSON can't hold."""
        json.dumps(checkpoint, allow_nan=False)
        self._lease.write(checkpoint=checkpoint, heartbeat=timezone.now())
        self._checkpoint = checkpoint
