"""Run one job in this process."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

from django.core.management.base import CommandParser

from adaptrag.common import jobs
from adaptrag.common.commands import FAILED, ContractCommand
from adaptrag.common.errors import Conflict, NotFound
from adaptrag.common.models import Job
from adaptrag.common.processes import die_with_parent


def _stop(signum: int, frame: object) -> NoReturn:
    raise jobs.JobCancelled(f"stopped by signal {signum}")


class Command(ContractCommand):
    requires_system_checks = []  # the worker that starts it has passed them
    help = "Run one queued job in this process, with its progress on the terminal. Ctrl-C or SIGTERM cancels it."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=int, help="number of the job")
        parser.add_argument("--attempt", type=int, help="used by the queue's workers: run the attempt that the parent claimed")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        signal.signal(signal.SIGTERM, _stop)
        number = options["id"]
        if options["attempt"] is not None:
            die_with_parent()
            try:
                jobs.job_run_child(number, options["attempt"])
            except jobs.JobCancelled:
                sys.exit(128 + signal.SIGTERM)
            sys.exit(0)
        self._claim_and_run(number)
        job = Job.objects.get(pk=number)
        self.exit_code = 0 if job.state == Job.State.SUCCEEDED else FAILED
        return {
            "job": job.pk,
            "kind": job.kind,
            "state": job.state,
            "result": job.result,
            "error": job.error,
            "seconds": job.seconds,
        }

    def _claim_and_run(self, number: int) -> None:
        job = Job.objects.filter(pk=number).first()
        if job is None:
            raise NotFound(f"There is no job {number}.", job=number)
        if job.state != Job.State.QUEUED:
            raise Conflict(f"Job {number} is {job.state}; only a queued job can be run.", job=number)
        try:
            jobs.job_run(number, here=True, on_progress=self.progress)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted.")
