"""`distill_teacher`: a larger model answers logged questions over the passages that were found for them."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common import jobs
from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import InvalidInput
from adaptrag.common.models import Job
from training.errors import TrainingFailed
from training.services import DistillationRequest, budget_set, distillation_get, distillation_resume, distillation_start


class Command(ContractCommand):
    help = "Have a teacher answer logged questions with the same passages; prepare_sft_data takes the accepted answers."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dataset", type=int, help="only the questions of this dataset (default: the log's)")
        parser.add_argument("--limit", type=int, help="at most so many questions, the newest first")
        parser.add_argument("--model", default="", help="the teacher (ADAPTRAG_TEACHER_MODEL)")
        parser.add_argument("--backend", default="", help="openai_compatible or local (ADAPTRAG_TEACHER_BACKEND)")
        parser.add_argument("--options", default="{}", help="JSON over ADAPTRAG_TEACHER_OPTIONS: base_url, api_key_env, prices")
        parser.add_argument("--samples", type=int, default=1, help="2 asks twice and keeps what agrees with itself (1)")
        parser.add_argument("--concurrency", type=int, default=4, help="questions asked at once (4)")
        parser.add_argument("--batch", action="store_true", help="by the provider's batch API: within a day, often for half")
        parser.add_argument("--budget-usd", type=float, help="set what teachers may cost in all")
        parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run; nothing answered is asked again")
        parser.add_argument("--queue", action="store_true", help="only put it on the queue; a worker asks")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["budget_usd"] is not None:
            budget_set("default", limit_usd=options["budget_usd"])
        if options["resume"] is not None:
            run = distillation_get(options["resume"])
            distillation_resume(run)
        else:
            run = distillation_start(self._request(options))
        if options["queue"]:
            return {"run": run.pk, "job": run.job_id}
        again = f"Go on with: python manage.py distill_teacher --resume {run.pk}"
        try:
            jobs.job_run(run.job_id, here=True, on_progress=self.progress)
        except KeyboardInterrupt:
            raise TrainingFailed(f"Interrupted. What is answered stays. {again}") from None
        job = Job.objects.get(pk=run.job_id)
        if job.state != Job.State.SUCCEEDED:
            raise TrainingFailed(f"{job.error or f'Its job is {job.state}.'}\n{again}")
        return job.result

    def _request(self, options: dict[str, Any]) -> DistillationRequest:
        try:
            chat_options = json.loads(options["options"])
        except ValueError as error:
            raise InvalidInput(f"--options is no JSON: {error}") from error
        names = ("dataset", "limit", "model", "backend", "samples", "concurrency", "batch")
        return DistillationRequest(options=chat_options, **{name: options[name] for name in names})

    def show(self, result: dict[str, Any]) -> None:
        if "job" in result:
            self.stdout.write(f"Distillation {result['run']} is on the queue as job {result['job']}.")
            return
        self.stdout.write(f"{result['asked']} questions answered by {result['model']}, {result['accepted']} accepted.")
        for reason, number in result["refused"].items():
            self.stdout.write(f"  {number} not accepted: {reason}")
        if result["failed"]:
            self.stdout.write(f"  {result['failed']} calls failed; --resume {result['run']} asks those again")
        tokens = result["prompt_tokens"] + result["completion_tokens"]
        self.stdout.write(f"{tokens:,} tokens, {result['cost_usd']:.4f} USD by the prices given.")
        if result["stopped_by_budget"]:
            self.stdout.write(f"The budget is spent; go on with: --resume {result['run']} --budget-usd SUM, with a higher sum.")
