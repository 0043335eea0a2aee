"""`quantize`: a build of an adapter merged into its model, as a registered artifact and a candidate."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.builds import quantization_quality_from
from adaptrag.common import jobs
from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import InvalidInput
from adaptrag.common.models import Job
from evals.services import evalrun_get
from training.errors import QuantizationFailed
from training.models import QuantizationReport
from training.quantization import MODES, PRECISIONS
from training.selectors import quality_words
from training.services import QuantizationRequest, quantization_get, quantization_resume, quantization_start
from training.services.quantizations import AGENT


class Command(ContractCommand):
    help = "Merge an adapter into its model, quantize it, compare it with the unquantized model and register it."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--adapter", default="", help="name or number of the adapter's artifact")
        parser.add_argument("--model", default="", help="a model without an adapter: smollm2, a folder, or a hub name")
        modes = "; ".join(f"{mode.name}: {mode.title}" for mode in MODES.values())
        parser.add_argument("--mode", default=QuantizationRequest.mode, help=f"{modes} (%(default)s)")
        parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of the merge (%(default)s)")
        parser.add_argument("--agent", default=AGENT, help="whose candidate the build becomes; '' for none (%(default)s)")
        parser.add_argument("--resume", type=int, metavar="REPORT", help="go on with one that was stopped or killed")
        parser.add_argument("--report", type=int, help="with --eval-run: a quantization that is done")
        parser.add_argument(
            "--eval-run", type=int, metavar="RUN",
            help="note in --report what this eval run found of its build against the unquantized model",
        )  # fmt: skip
        parser.add_argument("--queue", action="store_true", help="only put it on the queue; a worker does it")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["report"] is not None or options["eval_run"] is not None:
            return self._evaluated(options["report"], options["eval_run"])
        report = self._resumed(options["resume"]) if options["resume"] is not None else self._started(options)
        if options["queue"]:
            return {"report": report.pk, "job": report.job_id}
        self.stderr.write(f"Quantization {report.pk}: {report.adapter or report.base_model} to {report.mode}")
        again = f"Go on with: python manage.py quantize --resume {report.pk}"
        try:
            jobs.job_run(report.job_id, here=True, on_progress=self.progress)
        except KeyboardInterrupt:
            raise QuantizationFailed(f"Interrupted. {again}") from None
        job = self._ended(report)
        if job.state != Job.State.SUCCEEDED:
            raise QuantizationFailed(f"{job.error or f'It was {job.state}.'}\n{again}")
        return job.result

    def _started(self, options: dict[str, Any]) -> QuantizationReport:
        return quantization_start(
            QuantizationRequest(
                model=options["model"],
                adapter=options["adapter"],
                mode=options["mode"],
                precision=options["precision"],
                register=bool(options["agent"]),
                agent=options["agent"],
            )
        )

    def _evaluated(self, report: int | None, run: int | None) -> dict[str, Any]:
        if report is None or run is None:
            raise InvalidInput("Name both: --report, whose build was evaluated, and --eval-run, which did it.")
        return {"report": report, "quality": quantization_quality_from(quantization_get(report), evalrun_get(run)).quality}

    def _resumed(self, number: int) -> QuantizationReport:
        report = quantization_get(number)
        quantization_resume(report)
        report.refresh_from_db()
        return report

    def _ended(self, report: QuantizationReport) -> Job:
        """A worker may have been faster to claim the job; then this waits for it."""
        while True:
            job = Job.objects.get(pk=report.job_id)
            if not job.is_live:
                return job
            self.progress(job.progress, job.message)
            time.sleep(1)

    def show(self, result: dict[str, Any]) -> None:
        if "job" in result:
            self.stdout.write(f"Quantization {result['report']} is on the queue as job {result['job']}.")
            return
        if "quality" in result:
            for line in quality_words(quantization_get(result["report"])):
                self.stdout.write(line)
            return
        build, before, near = result["figures"], result["unquantized"], result["fidelity"]
        self.stdout.write(
            f"{result['artifact']}: {build['weights_bytes'] / 1e6:.0f} MB in memory (was {before['weights_bytes'] / 1e6:.0f}), "
            f"{build['decode_tokens_per_second']:.1f} tokens/s (was {before['decode_tokens_per_second']:.1f}), in eights "
            f"{build['decode_8_tokens_per_second']:.0f}; perplexity {near['perplexity_rise']:+.1%}, "
            f"answers {near['answers_overlap']:.2f} alike\n{result['path']}"
        )
        if result["candidate"]:
            self.stdout.write(f'Ask it: python manage.py ask "your question" --agent {result["candidate"]}')
