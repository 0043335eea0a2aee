"""The functions that the queue's workers call. They take integers and return what django-q shows as the task's result."""

from __future__ import annotations

from dataclasses import asdict

from adaptrag.common import jobs, reaper


def job_run(job_id: int) -> str:
    """Run one job; a second delivery of the same message finds nothing to claim. Returns the job's state."""
    return jobs.job_run(job_id)


def reap() -> dict[str, int]:
    """Scheduled every minute."""
    return asdict(reaper.jobs_reap())


def clean() -> int:
    """Scheduled every day."""
    return reaper.jobs_clean()
