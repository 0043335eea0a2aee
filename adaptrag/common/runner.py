"""Running a claimed job: in this process, or in a child that may die without taking the worker along."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from structlog.contextvars import bound_contextvars

from adaptrag.common.context import JobContext
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.lease import Heartbeat, JobCancelled, JobSuperseded, Lease
from adaptrag.common.models import Job
from adaptrag.common.registry import Handler

logger = logging.getLogger(__name__)

POLL = 0.2  # seconds between looks at the child
CANCEL_POLL = 1.0  # seconds between looks at the row
OUTPUT_LINES = 60


class _TimeIsUp(BaseException):
    pass


def run_here(
    lease: Lease,
    handler: Handler,
    *,
    limit: float | None = None,
    heartbeat: bool = True,
    child: bool = False,
    on_progress: Callable[[float, str], None] | None = None,
) -> None:
    """Run one attempt in this process and write its end.

    limit: seconds after which the main thread is interrupted. child: a cancel that nobody asked for on the row (a signal
    from the supervisor, which knows why) is raised on as JobCancelled instead of being written.
    """
    with bound_contextvars(job_id=lease.job_id, job_kind=handler.kind):
        context = JobContext(lease, on_progress)
        try:
            with Heartbeat(lease) if heartbeat else contextlib.nullcontext(), _time_limit(limit):
                result = handler.function(context)
            json.dumps(result, allow_nan=False)  # here it fails the job with its traceback; inside an UPDATE, the transaction
            lease.finish(Job.State.SUCCEEDED, result=result, **{**context.reported(), "progress": 1.0})
        except JobSuperseded:
            logger.warning("job %s: attempt %s was superseded; it stops", lease.job_id, lease.attempt)
        except JobCancelled:
            if child and not lease.cancel_requested():
                raise
            _end(lease, Job.State.CANCELLED, **context.reported())
        except KeyboardInterrupt:
            _end(lease, Job.State.CANCELLED, **context.reported())
            raise
        except _TimeIsUp:
            _end(lease, Job.State.FAILED, error=_too_long(limit), traceback=traceback.format_exc(), **context.reported())
        except AdaptRAGError as error:
            _end(lease, Job.State.FAILED, error=error.message, **context.reported())
        except MemoryError:
            message = "It ran out of memory. Give it less work at once, or the machine more memory."
            _end(lease, Job.State.FAILED, error=message, traceback=traceback.format_exc(), **context.reported())
        except (Exception, SystemExit) as error:
            message = f"{type(error).__name__}: {error}"
            _end(lease, Job.State.FAILED, error=message, traceback=traceback.format_exc(), **context.reported())


def _end(lease: Lease, state: Job.State, **fields: object) -> None:
    """Write the end, over a fresh connection where the handler broke the old one."""
    if not connection.in_atomic_block:
        close_old_connections()
    try:
        lease.finish(state, **fields)
    except JobSuperseded:
        logger.warning("job %s: attempt %s was superseded before it could end as %s", lease.job_id, lease.attempt, state)


def _too_long(limit: float | None) -> str:
    return (
        f"It ran longer than {limit:.0f} s, its time limit, and was stopped. Give it less work at once, or raise the limit "
        "(docs/configuration.md: ADAPTRAG_JOBS_LIGHT_LIMIT, ADAPTRAG_JOBS_HEAVY_LIMIT)."
    )


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the main thread after so many seconds; elsewhere a signal can't, and there is no limit."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_in_child(lease: Lease, *, limit: float) -> None:
    """Run one attempt as `manage.py run_job`, beat for it, stop it when it must stop, and write an end that it couldn't."""
    command = [sys.executable, "-X", "faulthandler", str(Path(settings.BASE_DIR) / "manage.py")]
    try:
        process = subprocess.Popen(
            [*command, "run_job", str(lease.job_id), "--attempt", str(lease.attempt)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # signals reach its own children too
            env={**os.environ, "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE},
        )
    except OSError as error:
        _end(lease, Job.State.FAILED, error=f"Its process could not be started: {error}.")
        return
    output: deque[str] = deque(maxlen=OUTPUT_LINES)
    reader = threading.Thread(target=_relay, args=(process.stdout, output), name=f"output-{lease.job_id}", daemon=True)
    reader.start()
    started = time.monotonic()
    try:
        reason, kibibytes = _watch(lease, process, limit)
    finally:
        _signal_group(process.pid, signal.SIGKILL)  # the child, or what it left behind
    reader.join(timeout=2)
    # A child that came to its end has written it: then the lease is over, and what follows changes nothing.
    with contextlib.suppress(JobSuperseded):
        if reason == "cancel":
            lease.finish(Job.State.CANCELLED)
        elif reason == "limit":
            lease.finish(Job.State.FAILED, error=_too_long(limit), traceback="".join(output))
        else:
            error = exit_reason(process.returncode, time.monotonic() - started, kibibytes * 1024)
            lease.finish(Job.State.FAILED, error=error, traceback="".join(output))


def _watch(lease: Lease, process: subprocess.Popen, limit: float) -> tuple[str, int]:
    """Wait for the child's end. Returns why it was stopped ("" if it ended by itself) and its peak memory in KiB."""
    reason, kill_at = "", float("inf")
    started = looked = beaten = time.monotonic()
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return reason, usage.ru_maxrss
        now = time.monotonic()
        if now >= kill_at:
            _signal_group(process.pid, signal.SIGKILL)
        elif not reason:
            if now - looked >= CANCEL_POLL:
                looked = now
                beat = now - beaten >= settings.ADAPTRAG_JOBS_HEARTBEAT
                beaten = now if beat else beaten
                reason = _row_says(lease, beat)
            if not reason and now - started > limit:
                reason = "limit"
            if reason:
                _signal_group(process.pid, signal.SIGKILL if reason == "superseded" else signal.SIGTERM)
                kill_at = now + settings.ADAPTRAG_JOBS_GRACE
        time.sleep(POLL)


def _row_says(lease: Lease, beat: bool) -> str:
    try:
        return "cancel" if (lease.beat() if beat else lease.cancel_requested()) else ""
    except JobSuperseded:
        # The child may have written its end a moment ago; then nothing is wrong and it needs no signal.
        ended = Job.objects.filter(pk=lease.job_id, attempt=lease.attempt, state__in=Job.ENDED).exists()
        return "" if ended else "superseded"
    except DatabaseError:
        logger.warning("job %s: its row can't be reached; the child goes on", lease.job_id, exc_info=True)
        connection.close()
        return ""


def _relay(stream: IO[bytes], output: deque[str]) -> None:
    """Pass the child's output on to this process's stderr and keep its last lines."""
    with stream:
        for line in stream:
            text = line.decode(errors="replace")[:2000]
            output.append(text)
            sys.stderr.write(text)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.killpg(group, number)


def exit_reason(code: int, seconds: float, peak_bytes: int) -> str:
    """Why a child that wrote no end of its own is gone, in words. code: as of subprocess, negative for a signal."""
    spent = f"after {seconds:.0f} s, using up to {peak_bytes / 2**20:.0f} MiB of memory"
    if code == -signal.SIGKILL:
        return (
            f"Its process was killed (signal 9, SIGKILL) {spent}. Usually that is the kernel when memory runs out: `dmesg` "
            "tells. Give it less work at once or the machine more memory, then retry: it goes on from its last checkpoint."
        )
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return f"Its process was stopped from outside (signal 15, SIGTERM) {spent}. Retry goes on from its last checkpoint."
    if code < 0:
        return f"Its process crashed (signal {-code}, {signal.Signals(-code).name}) {spent}. Its last output is kept below."
    return f"Its process ended with exit code {code} {spent} before the job was done. Its last output is kept below."
