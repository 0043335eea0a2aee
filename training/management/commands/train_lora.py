"""`train_lora`: an adapter from a dataset, as a registered artifact and a candidate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common import jobs
from adaptrag.common.commands import ContractCommand
from adaptrag.common.models import Job
from agents.llm.weights import DEFAULT_MODEL
from training.errors import TrainingFailed
from training.lora import PRECISIONS, Recipe
from training.models import TrainingRun
from training.services import TrainingRequest, training_get, training_resume, training_start

RECIPE = Recipe()


class Command(ContractCommand):
    help = "Fine-tune a model on a dataset with LoRA, here and now; Ctrl-C keeps the last checkpoint."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dataset", type=int, help="its number (the newest; prepared first where there is none)")
        parser.add_argument("--model", default=DEFAULT_MODEL, help="smollm2, a folder, or a hub name such as distilgpt2")
        parser.add_argument("--steps", type=int, default=RECIPE.steps, help="(%(default)s)")
        parser.add_argument("--r", type=int, default=RECIPE.r, help="rank (%(default)s)")
        parser.add_argument("--alpha", type=float, help="scale (twice the rank)")
        parser.add_argument("--learning-rate", type=float, default=RECIPE.learning_rate, help="(%(default)g)")
        parser.add_argument("--batch", type=int, default=RECIPE.batch, help="examples a step (%(default)s)")
        parser.add_argument("--micro", type=int, default=RECIPE.micro, help="examples computed at once (%(default)s)")
        parser.add_argument("--precision", default=RECIPE.precision, choices=PRECISIONS)
        parser.add_argument("--qlora", action="store_true", help="base model in 4 bits (CUDA)")
        parser.add_argument("--seed", type=int, default=RECIPE.seed)
        parser.add_argument("--processes", type=int, default=1, help="train over this many processes (1)")
        parser.add_argument("--agent", default="lora_rag", help="whose candidate the result becomes; '' for none (%(default)s)")
        parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run that was stopped or killed")
        parser.add_argument("--queue", action="store_true", help="only put it on the queue; a worker trains")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        run = self._resumed(options["resume"]) if options["resume"] is not None else training_start(self._request(options))
        if options["queue"]:
            return {"run": run.pk, "job": run.job_id}
        self.stderr.write(f"Training {run.pk} on {run.dataset} ({run.dataset.counts.get('train')} examples)")
        try:
            jobs.job_run(run.job_id, here=True, on_progress=self.progress)
        except KeyboardInterrupt:
            raise TrainingFailed(f"Interrupted. Go on with: python manage.py train_lora --resume {run.pk}") from None
        job = self._ended(run)
        if job.state != Job.State.SUCCEEDED:
            raise TrainingFailed(
                f"{job.error or f'It was {job.state}.'}\nGo on with: python manage.py train_lora --resume {run.pk}"
            )
        return job.result

    def _resumed(self, number: int) -> TrainingRun:
        run = training_get(number)
        training_resume(run)
        run.refresh_from_db()
        return run

    def _request(self, options: dict[str, Any]) -> TrainingRequest:
        names = ("steps", "r", "alpha", "learning_rate", "batch", "micro", "precision", "seed")
        recipe = replace(RECIPE, **{name: options[name] for name in names}, quantized=options["qlora"])
        return TrainingRequest(
            dataset=options["dataset"],
            prepare=True,
            model=options["model"],
            recipe=recipe,
            processes=options["processes"],
            agent=options["agent"],
        )

    def _ended(self, run: TrainingRun) -> Job:
        """A worker may have been faster to claim the job; then this waits for it."""
        while True:
            job = Job.objects.get(pk=run.job_id)
            if not job.is_live:
                return job
            self.progress(job.progress, job.message)
            time.sleep(1)

    def show(self, result: dict[str, Any]) -> None:
        if "job" in result:
            self.stdout.write(f"Training {result['run']} is on the queue as job {result['job']}.")
            return
        held_out = f", validation {result['validation_loss']:.3f}" if result["validation_loss"] is not None else ""
        self.stdout.write(
            f"{result['artifact']}: {result['steps']} steps, loss {result['train_loss']:.3f}{held_out}, "
            f"{result['tokens_per_second']:.0f} tokens/s, {result['seconds']:.0f} s, "
            f"{result['peak_memory_bytes'] / 2**30:.1f} GiB\n{result['path']}"
        )
        if result["candidate"]:
            self.stdout.write(f'Ask it: python manage.py ask "your question" --agent {result["candidate"]}')
