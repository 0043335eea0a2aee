"""The stages: each goes on from what its figures hold, so that one that was killed repeats nothing that was kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from adaptrag.builds import quantization_quality_from
from adaptrag.common.errors import Conflict
from adaptrag.common.jobs import JobContext
from adaptrag.loop.models import LoopRun, LoopStage
from adaptrag.loop.plan import (
    TUNED,
    Options,
    collect_words,
    corrections_words,
    plan_make,
    quantization_absent,
    references_needed,
    teacher_absent,
)
from adaptrag.loop.references import references_keep
from agents.errors import ChatModelUnavailable
from agents.llm.weights import model_folder
from agents.models import AgentVariant
from evals.gate import gate_evidence
from evals.models import EvalRun, EvalSet
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalrun_questions
from rewards.models import PromotionDecision
from rewards.services import variant_gate
from training.errors import BudgetSpent, NothingToLearn, QuantizationFailed
from training.models import QuantizationReport, SFTDataset, TrainingRun
from training.quantization import check_family
from training.recipe import Recipe
from training.services import (
    DatasetRequest,
    DistillationRequest,
    QuantizationRequest,
    TrainingRequest,
    dataset_prepare,
    distillation_create,
    distillation_execute,
    quantization_create,
    quantization_execute,
    training_create,
    training_execute,
)

# A decision as the verdict of the run. One that waits for a click passed its gate; the person is still needed.
VERDICTS = {
    PromotionDecision.Verdict.PROMOTED: LoopRun.Verdict.PROMOTED,
    PromotionDecision.Verdict.REJECTED: LoopRun.Verdict.REJECTED,
    PromotionDecision.Verdict.NEEDS_HUMAN: LoopRun.Verdict.NEEDS_HUMAN,
    PromotionDecision.Verdict.WAITS: LoopRun.Verdict.NEEDS_HUMAN,
}
ALONE = "There is no build, so the adapter alone is compared."


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a stage ended. With a verdict the run ends too, and `detail` is why."""

    detail: str
    state: str = LoopStage.State.DONE
    verdict: str = ""


@dataclass(kw_only=True)
class Work:
    """What a stage has: the run, its own row, the job's context, and what the stages before it found."""

    run: LoopRun
    stage: LoopStage
    context: JobContext
    options: Options
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, **figures: Any) -> None:
        """Note what a resumed attempt goes on from."""
        self.stage.figures = {**self.stage.figures, **figures}
        self.stage.save(update_fields=["figures"])

    def once(self, name: str, create: Callable[[], Any], *, long: bool = False) -> int:
        """The number of the row that the stage works on, made once however often the stage is begun.

        long: making it takes a while, so that no transaction may be held for it; a kill at its end makes it twice.
        """
        if (number := self.stage.figures.get(name)) is None:
            with nullcontext() if long else transaction.atomic():
                row = create()
                if hasattr(row, "job_id"):  # its own page then shows the progress of this job
                    row.job_id = self.context.job_id
                    row.save(update_fields=["job"])
                self.keep(**{name: row.pk})
            number = row.pk
        return number

    def number(self, stage: str, name: str) -> int | None:
        """A number that an earlier stage noted."""
        return self.found.get(stage, {}).get(name)


def prepare(work: Work) -> Ended:
    """Is there enough that is new? Then hold references out, and freeze a dataset of the rest."""
    plan = plan_make(work.options)
    if plan.skipped:
        return Ended(detail=plan.skipped, verdict=LoopRun.Verdict.SKIPPED)
    work.context.progress(0.1, "holding references out of training")
    eval_set = references_keep(plan.references, work.run.created_by)
    collection = work.options.collection or (plan.references.collection and plan.references.collection.name)
    figures = {"kind": plan.references.kind, "references": plan.references.n, "judge": str(plan.references.judge)}
    work.keep(**figures, eval_set=eval_set and eval_set.pk, collection=collection)
    LoopRun.objects.filter(pk=work.run.pk).update(incumbent=plan.incumbent, data_until=timezone.now())
    if unfit := _unfit(work.options):
        work.keep(unfit=unfit)
    work.context.progress(0.3, "reading the log")
    try:
        dataset = work.once("dataset", lambda: _dataset(work), long=True)
    except NothingToLearn as error:
        return Ended(detail=error.message, verdict=LoopRun.Verdict.SKIPPED)
    return Ended(detail=f"{_told(dataset)}. Compared by {plan.references.words()}. {unfit}".strip())


def distil(work: Work) -> Ended:
    """A teacher's answers to logged questions, and a dataset that holds them."""
    number = work.once("distillation", lambda: distillation_create(DistillationRequest(user=work.run.created_by)))
    try:
        figures = distillation_execute(number, work.context)
    except (BudgetSpent, NothingToLearn) as error:
        return Ended(detail=error.message, state=LoopStage.State.SKIPPED)
    dataset = work.once("dataset", lambda: _dataset(work), long=True)
    asked = f"{figures['accepted']} of {figures['asked']} answers accepted, {figures['cost_usd']:.4f} USD"
    return Ended(detail=f"{asked}. {_told(dataset)}.")


def train(work: Work) -> Ended:
    request = TrainingRequest(
        dataset=work.number("distil", "dataset") or work.number("prepare", "dataset"),
        model=work.options.model,
        recipe=replace(Recipe(), steps=work.options.steps),
        agent=TUNED,
        user=work.run.created_by,
    )
    number = work.once("training", lambda: training_create(request))
    result = training_execute(number, work.context)
    artifact = TrainingRun.objects.get(pk=number).artifact
    work.keep(artifact=artifact.pk)
    variant = artifact.variants.order_by("pk").first()
    work.keep(variant=variant.pk)
    LoopRun.objects.filter(pk=work.run.pk).update(candidate=variant)
    held_out = "" if result["validation_loss"] is None else f", validation {result['validation_loss']:.3f}"
    return Ended(detail=f"{artifact}: {result['steps']} steps, loss {result['train_loss']:.3f}{held_out}.")


def quantize(work: Work) -> Ended:
    """The build takes the adapter's place as the candidate; where there can be none, the adapter alone goes on."""
    if unfit := work.found["prepare"].get("unfit"):
        return Ended(detail=unfit, state=LoopStage.State.SKIPPED)
    request = QuantizationRequest(
        model=work.options.model,
        adapter=work.number("train", "artifact"),
        mode=work.options.quantize,
        register=True,
        user=work.run.created_by,
    )
    number = work.once("quantization", lambda: quantization_create(request))
    try:
        quantization_execute(number, work.context)
    except (QuantizationFailed, ChatModelUnavailable) as error:  # the second: a build that this machine can't load
        work.keep(unfit=f"{error.message} {ALONE}")
        return Ended(detail=f"{error.message} {ALONE}", state=LoopStage.State.SKIPPED)
    report = QuantizationReport.objects.get(pk=number)
    work.keep(artifact=report.artifact_id)
    LoopRun.objects.filter(pk=work.run.pk).update(candidate=report.variant)
    return Ended(detail=f"{report.artifact}, {report.artifact.bytes_on_disk / 1e6:.0f} MB, mode {work.options.quantize}.")


def evaluate(work: Work) -> Ended:
    prepared = work.found["prepare"]
    if not prepared["eval_set"]:
        return Ended(detail="There is no question to compare by.", state=LoopStage.State.SKIPPED)
    number = work.once("evalrun", lambda: _evalrun(work, prepared))
    evalrun_execute(number, work.context.progress)
    run = EvalRun.objects.get(pk=number)
    if run.state != EvalRun.State.DONE:
        raise Conflict(f"{run} {run.get_state_display()}; its page says how far it came. Resume the improvement to go on.")
    _hold(run)
    if work.number("quantize", "artifact") and prepared["kind"] != "judge" and prepared["references"] > 1:
        quantization_quality_from(QuantizationReport.objects.get(pk=work.number("quantize", "quantization")), run)
    scores = (f"{one['agent']} {one['score']:.3f}" for one in run.summary["agents"] if one["score"] is not None)
    return Ended(detail=f"{', '.join(scores) or 'Nothing could be scored'}; {len(evalrun_questions(run))} questions.")


def gate(work: Work) -> Ended:
    """The evidence as the gate sees it; what follows from it comes next."""
    if not work.number("evaluate", "evalrun"):
        return Ended(detail="There is no evidence.", state=LoopStage.State.SKIPPED)
    evidence = _evidence(work)
    work.keep(evidence=asdict(evidence))
    if evidence.difference is None:
        return Ended(detail=f"{evidence.n} questions could be compared: too few for an interval.")
    interval = f"{evidence.difference:+.3f} (95 % interval {evidence.low:+.3f} to {evidence.high:+.3f})"
    return Ended(detail=f"{evidence.candidate} against {evidence.incumbent}: {interval} over {evidence.n} questions.")


def register(work: Work) -> Ended:
    """Let the gate decide; its decision and the end of the run are one transaction (the caller's)."""
    candidate = work.run.candidate
    kind, n = work.found["prepare"]["kind"], work.found["prepare"]["references"]
    if not work.number("evaluate", "evalrun"):
        collect = collect_words(kind, n, references_needed())
        return Ended(detail=f"{candidate} waits as a candidate. {collect}", verdict=LoopRun.Verdict.NEEDS_HUMAN)
    decision = variant_gate(candidate, _evidence(work), user=work.run.created_by)
    work.keep(decision=decision.pk)
    verdict = VERDICTS[PromotionDecision.Verdict(decision.verdict)]
    reason = decision.reason
    if unfit := work.found["prepare"].get("unfit") or work.found["quantize"].get("unfit"):
        reason = f"{reason} {unfit}"
    if decision.verdict == PromotionDecision.Verdict.WAITS:
        asks = " It waits for a person's click, as ADAPTRAG_ASK_CANARY says." if settings.ADAPTRAG_ASK_CANARY else ""
        return Ended(detail=f"{reason}{asks}", verdict=verdict)
    short = references_needed() - n
    if verdict == LoopRun.Verdict.NEEDS_HUMAN and kind == "corrections" and short > 0:
        return Ended(detail=f"{reason} {corrections_words(short)}", verdict=verdict)
    return Ended(detail=reason, verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """heavy: in a process of its own, on the queue `long`. absent: why a run goes past it; empty if it does not."""

    name: str
    title: str
    execute: Callable[[Work], Ended]
    heavy: bool = True
    absent: Callable[[Options], str] = lambda options: ""

    @property
    def kind(self) -> str:
        return f"loop.{self.name}"


STAGES = {
    stage.name: stage
    for stage in (
        Stage(name="prepare", title="Prepare data", execute=prepare),
        Stage(name="distil", title="Ask the teacher", execute=distil, absent=lambda options: teacher_absent()),
        Stage(name="train", title="Train", execute=train),
        Stage(name="quantize", title="Quantize", execute=quantize, absent=quantization_absent),
        Stage(name="evaluate", title="Evaluate", execute=evaluate),
        Stage(name="gate", title="Gate", execute=gate, heavy=False),
        Stage(name="register", title="Register or reject", execute=register, heavy=False),
    )
}


def _unfit(options: Options) -> str:
    """Why the model can't be quantized to the mode that is set; empty where it can, or none is set."""
    if quantization_absent(options):
        return ""
    try:
        check_family(model_folder(options.model), options.quantize)
    except QuantizationFailed as error:
        return f"{error.message} {ALONE}"
    return ""


def _dataset(work: Work) -> SFTDataset:
    return dataset_prepare(DatasetRequest(student=work.options.model, user=work.run.created_by))


def _told(dataset: int) -> str:
    counts = SFTDataset.objects.get(pk=dataset).counts
    return f"dataset {dataset}: {counts['train']} examples to train on, {counts['validation']} to validate"


def _evalrun(work: Work, prepared: dict[str, Any]) -> EvalRun:
    run = work.run
    beside = [work.number("train", "variant")] if work.number("quantize", "artifact") else []
    request = RunRequest(
        eval_set=EvalSet.objects.get(pk=prepared["eval_set"]),
        agents=(run.incumbent, run.candidate, *AgentVariant.objects.filter(pk__in=beside)),
        collection=prepared["collection"],
        top_k=work.options.top_k,
        judge=prepared["judge"],
        max_questions=work.options.questions,
        name=f"Gate of {run}",
        user=run.created_by,
    )
    return evalrun_create(request)


def _hold(run: EvalRun) -> None:
    """An agent that mostly failed, or had another model step in, was not compared: its own is down, say. Resuming asks it
    again."""
    for variant in run.labelled().values():
        rows = run.results.filter(variant=variant)
        failed = rows.filter(Q(failed=True) | Q(fallback__isnull=False))
        if 2 * failed.count() > rows.count():
            first = failed.first()
            why = first.fallback["reason"] if first.fallback else first.error["message"]
            words = f"{variant} failed on {failed.count()} of {rows.count()} questions: {why}"
            failed.delete()
            raise Conflict(f"{words} Mend that, then resume.")


def _evidence(work: Work) -> Any:
    run = EvalRun.objects.get(pk=work.number("evaluate", "evalrun"))
    return gate_evidence(run, str(work.run.candidate), str(work.run.incumbent))
