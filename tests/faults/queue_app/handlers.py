"""Handlers for the fault tests. Each writes what it did to the file `trace`, which tells runs apart from rows."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

from adaptrag.common.errors import InvalidInput
from adaptrag.common.jobs import JobContext, JobSuperseded
from adaptrag.common.lease import claim
from adaptrag.common.models import Job


def _trace(context: JobContext, event: str) -> None:
    with Path(context.payload["trace"]).open("a") as handle:
        handle.write(f"{event} {os.getpid()}\n")


def steps(context: JobContext) -> dict:
    """Go on from the checkpoint; a step is traced when done, then kept. With `gate`, step 1 waits until that file exists."""
    start = (context.checkpoint or {}).get("done", 0)
    _trace(context, f"start:{start}")
    total = context.payload["steps"]
    for number in range(start, total):
        while number == 1 and "gate" in context.payload and not Path(context.payload["gate"]).exists():
            context.progress(number / total)
            time.sleep(0.05)
        context.progress(number / total, f"step {number}")
        time.sleep(context.payload.get("pause", 0))
        _trace(context, f"step:{number}")
        context.save_checkpoint({"done": number + 1})
        context.log(f"step {number} done")
    return {"steps": total}


def suicide(context: JobContext) -> None:
    _trace(context, "start:0")
    os.kill(os.getpid(), signal.SIGKILL)


def deaf(context: JobContext) -> None:
    """Never reports, and takes no notice of SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _trace(context, "start:0")
    time.sleep(300)


def segfault(context: JobContext) -> None:
    ctypes.string_at(0)


def refuse(context: JobContext) -> None:
    raise InvalidInput("The file 'x.pdf' is encrypted. Upload it without a password.")


def usurped(context: JobContext) -> dict:
    """Lose the lease in the middle: another process takes the job, and this one goes on writing."""
    Job.objects.filter(pk=context.job_id).update(state=Job.State.QUEUED)
    claim(context.job_id)
    try:
        context.save_checkpoint({"by": "the superseded attempt"})
    except JobSuperseded as refusal:
        _trace(context, f"refused:{type(refusal).__name__}")
    return {"by": "the superseded attempt"}


def claims_won(job_id: int, threads: int) -> int:
    """How many of so many connections get the lease of one queued job when they try at the same moment."""
    barrier = threading.Barrier(threads)
    won: list[bool] = []

    def attempt() -> None:
        from django.db import connection

        connection.ensure_connection()
        barrier.wait()
        won.append(claim(job_id) is not None)
        connection.close()

    pool = [threading.Thread(target=attempt) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(won)
