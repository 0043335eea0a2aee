"""`train_lora`: an adapter from a dataset, as a registered artifact and a candidate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common import jobs
from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import InvalidInput
from adaptrag.common.models import Job
from agents.llm.weights import DEFAULT_MODEL
from training.errors import TrainingFailed
from training.launch import SPEC
from training.models import TrainingRun
from training.recipe import PRECISIONS, Recipe
from training.services import TrainingRequest, training_get, training_resume, training_start

RECIPE = Recipe()
FIXED = (
    "dataset", "model", "steps", "r", "alpha", "learning_rate", "batch", "precision", "seed", "processes", "launcher", "agent",
)  # fmt: skip


class Command(ContractCommand):
    help = "Fine-tune a model on a dataset with LoRA, here and now; Ctrl-C keeps the last checkpoint."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dataset", type=int, help="its number (the newest; prepared first where there is none)")
        parser.add_argument("--model", help=f"smollm2, a folder, or a hub name such as distilgpt2 ({DEFAULT_MODEL})")
        parser.add_argument("--steps", type=int, help=f"({RECIPE.steps})")
        parser.add_argument("--r", type=int, help=f"rank ({RECIPE.r})")
        parser.add_argument("--alpha", type=float, help="scale (twice the rank)")
        parser.add_argument("--learning-rate", type=float, help="(by the width of the model)")
        parser.add_argument("--batch", type=int, help=f"examples a step ({RECIPE.batch})")
        parser.add_argument("--micro", type=int, help=f"examples computed at once, on average ({RECIPE.micro})")
        parser.add_argument("--precision", choices=PRECISIONS, help=f"({RECIPE.precision})")
        parser.add_argument("--qlora", action="store_true", default=None, help="base model in 4 bits (CUDA)")
        parser.add_argument("--seed", type=int, help=f"({RECIPE.seed})")
        parser.add_argument("--processes", type=int, help="train over this many processes of this machine (1)")
        parser.add_argument("--launcher", metavar="OPTIONS", help="train by `accelerate launch OPTIONS`, over several machines")
        parser.add_argument("--agent", help="whose candidate the result becomes; '' for none (lora_rag)")
        parser.add_argument(
            "--resume",
            type=int,
            metavar="RUN",
            help="go on with a run that was stopped; --micro, --qlora may change",
        )
        parser.add_argument("--queue", action="store_true", help="only put it on the queue; a worker trains")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        run = self._resumed(options) if options["resume"] is not None else training_start(self._request(options))
        if options["queue"]:
            return {"run": run.pk, "job": run.job_id}
        if run.launcher:
            self.stderr.write(f"On the other machines: accelerate launch ... -m training.launch {run.folder / SPEC}")
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

    def _resumed(self, options: dict[str, Any]) -> TrainingRun:
        if fixed := [f"--{name.replace('_', '-')}" for name in FIXED if options[name] is not None]:
            raise InvalidInput(
                f"A resumed training goes on as it began, but for --micro and --qlora: leave out {', '.join(fixed)}, or start "
                "another without --resume."
            )
        run = training_get(options["resume"])
        training_resume(run, micro=options["micro"], quantized=options["qlora"])
        run.refresh_from_db()
        return run

    def _request(self, options: dict[str, Any]) -> TrainingRequest:
        given = {name: value for name, value in options.items() if value is not None}
        names = ("steps", "r", "alpha", "learning_rate", "batch", "micro", "precision", "seed")
        recipe = replace(RECIPE, **{name: given[name] for name in names if name in given}, quantized="qlora" in given)
        values = {name: given[name] for name in ("dataset", "model", "processes", "launcher", "agent") if name in given}
        return TrainingRequest(prepare=True, recipe=recipe, **values)

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
        rate = f" at {result['learning_rate']:.2g}" if result["learning_rate"] else ""
        held_out = f", validation {result['validation_loss']:.3f}" if result["validation_loss"] is not None else ""
        self.stdout.write(
            f"{result['artifact']}: {result['steps']} steps{rate}, loss {result['train_loss']:.3f}{held_out}, "
            f"{result['tokens_per_second']:.0f} tokens/s, {result['seconds']:.0f} s, "
            f"{result['peak_memory_bytes'] / 2**30:.1f} GiB\n{result['path']}"
        )
        if result["candidate"]:
            self.stdout.write(f'Ask it: python manage.py ask "your question" --agent {result["candidate"]}')
