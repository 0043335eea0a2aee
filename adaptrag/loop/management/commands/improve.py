"""`improve`: one whole cycle, from the log to a candidate that the gate has judged."""

from __future__ import annotations

import os
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from adaptrag.common import jobs
from adaptrag.common.commands import DONE, FAILED, GATE_NOT_MET, ContractCommand
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.models import Job
from adaptrag.loop.models import LoopRun
from adaptrag.loop.services import (
    ImproveRequest,
    improve_get,
    improve_plan,
    improve_resume,
    improve_settle,
    improve_start,
    improve_summary,
    plan_summary,
    stage_current,
)
from adaptrag.loop.stages import STAGES
from agents.llm import process

Verdict = LoopRun.Verdict
EXIT = {Verdict.PROMOTED: DONE, Verdict.SKIPPED: DONE, Verdict.REJECTED: GATE_NOT_MET, Verdict.NEEDS_HUMAN: GATE_NOT_MET}


class Interrupted(AdaptRAGError):
    code = "interrupted"


class Command(ContractCommand):
    help = "Prepare data, ask the teacher, train, quantize, evaluate, gate, and register or reject the candidate."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what it would do, with figures; change nothing")
        parser.add_argument("--force", action="store_true", help="also with little new data")
        parser.add_argument("--eval-set", help="eval set whose gold answers gate (ADAPTRAG_IMPROVE_EVAL_SET)")
        parser.add_argument("--collection", help="where the gate's questions are asked (the set's own)")
        parser.add_argument("--model", default="", help="the student (ADAPTRAG_IMPROVE_MODEL)")
        parser.add_argument("--steps", type=int, help="of the training (ADAPTRAG_IMPROVE_STEPS)")
        parser.add_argument("--quantize", metavar="MODE", help="mode of the build, or none (ADAPTRAG_IMPROVE_QUANTIZE)")
        parser.add_argument("--questions", type=int, help="most questions of the gate (ADAPTRAG_IMPROVE_QUESTIONS)")
        parser.add_argument("--top-k", type=int, default=5)
        parser.add_argument("--incumbent", default="", help="agent to compare with (the one with the best mean reward)")
        parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run that failed, was killed or cancelled")
        parser.add_argument("--queue", action="store_true", help="only put it on the queue; workers do the rest")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        names = ("force", "eval_set", "collection", "model", "steps", "quantize", "questions", "top_k", "incumbent")
        request = ImproveRequest(**{name: options[name] for name in names})
        if options["dry_run"]:
            return plan_summary(improve_plan(request))
        run = improve_start(request) if options["resume"] is None else improve_resume(improve_get(options["resume"]))
        if options["queue"]:
            return improve_summary(run)
        self.stderr.write(f"Improvement {run.pk}")
        if settings.ADAPTRAG_LOCAL_MODEL == "auto" and process.find() is None:
            # This command runs alone, and its stages one after the other: each may load the weights itself.
            os.environ["ADAPTRAG_LOCAL_MODEL"] = "inprocess"
        try:
            run = self._worked_off(run)
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted. Go on with: python manage.py improve --resume {run.pk}") from None
        self.exit_code = EXIT.get(run.verdict, FAILED)
        if run.state != LoopRun.State.DONE:
            self.stderr.write(f"Go on with: python manage.py improve --resume {run.pk}")
        return improve_summary(run)

    def _worked_off(self, run: LoopRun) -> LoopRun:
        """Run stage after stage, each in its process; a worker of the queue may be faster to take one, then this looks on."""
        while (run := improve_settle(run)).state == LoopRun.State.RUNNING:
            stage = stage_current(run)
            if stage is None or stage.job is None:
                continue
            if stage.job.state == Job.State.QUEUED:
                self.progress(stage.ordinal / (len(STAGES) + 1), STAGES[stage.name].title)
                jobs.job_run(stage.job.pk)
            else:
                self.progress(stage.ordinal / (len(STAGES) + 1), f"{STAGES[stage.name].title}: {stage.job.message}")
                time.sleep(0.5)
        return run

    def show(self, result: dict[str, Any]) -> None:
        for stage in result["stages"]:
            took = "" if stage["seconds"] is None else f"{stage['seconds']:.0f} s"
            self.stdout.write(f"{stage['stage']:<10} {stage['state']:<10} {took:>7}  {stage['detail']}")
        verdict = result["verdict"] or ("decided by the run" if result.get("dry_run") else result["state"])
        self.stdout.write(f"\nVerdict: {verdict}")
        if result["candidate"]:
            self.stdout.write(f"Candidate: {result['candidate']}, compared with {result['incumbent']}")
