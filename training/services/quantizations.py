"""Quantizations: asked for, built, measured beside the unquantized model; the build becomes an artifact and a candidate."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import JobContext, job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from agents.llm.builds import ARTIFACTS
from agents.llm.weights import DEFAULT_MODEL, model_folder
from agents.models import AgentVariant, ModelArtifact
from agents.services import agent_name_check, agent_register, agent_revise
from training.builtin import builtin_candidates
from training.errors import QuantizationFailed, UnknownRun
from training.measuring import Fidelity, Figures, Questions, compare, measure
from training.models import QuantizationChoice, QuantizationReport, SFTExample, TrainingRun
from training.quantization import MODES, PRECISIONS, quantize
from training.services.candidates import candidate_values
from training.services.datasets import chats
from training.tasks import QUANTIZE

AGENT = "quantized_rag"
INHERIT = 0.5  # share of the evidence of the agent that a first candidate takes after: the same answers, nearly
EXAMPLES = 24  # of training, to calibrate by
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "onnxruntime", "safetensors")


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """What to quantize: an adapter (name, number or row) with the model that it was trained on, or a model alone.

    register: the build becomes a candidate of `agent`. precision: of the merge.
    """

    model: str = ""
    adapter: str | int | ModelArtifact | None = None
    mode: str = "cpu8"
    precision: str = "fp32"
    register: bool = True
    agent: str = AGENT
    user: Any = None


def quantization_get(number: int) -> QuantizationReport:
    """Raises UnknownRun, which names the newest."""
    rows = QuantizationReport.objects.select_related("adapter", "job", "artifact", "variant")
    report = rows.filter(pk=number).first()
    if report is None:
        newest = QuantizationReport.objects.values_list("pk", flat=True).first()
        known = f"The newest is {newest}." if newest else "There is none yet."
        raise UnknownRun(f"There is no quantization {number}. {known}")
    return report


def quantization_create(request: QuantizationRequest) -> QuantizationReport:
    """The report's row, not started. Raises InvalidInput naming what is wrong."""
    adapter = adapter_named(request.adapter)
    if request.mode not in MODES:
        raise InvalidInput(f"There is no mode {request.mode!r}; there are {', '.join(MODES)}.", field="mode")
    if request.precision not in PRECISIONS:
        raise InvalidInput(f"precision must be one of {', '.join(PRECISIONS)}, not {request.precision!r}.", field="precision")
    if adapter and request.model and request.model != adapter.base_model:
        raise InvalidInput(
            f"The adapter {adapter} was trained on {adapter.base_model!r}, not on {request.model!r}; leave the model out.",
            field="model",
        )
    if request.register:
        agent_name_check(request.agent)
    return QuantizationReport.objects.create(
        base_model=adapter.base_model if adapter else request.model or DEFAULT_MODEL,
        adapter=adapter,
        mode=request.mode,
        precision=request.precision,
        agent=request.agent if request.register else "",
        created_by=request.user if getattr(request.user, "pk", None) else None,
    )


def quantization_start(request: QuantizationRequest) -> QuantizationReport:
    """Create a report and put its job on the queue."""
    report = quantization_create(request)
    with transaction.atomic():
        _enqueue(report, request.user)
    report.refresh_from_db()
    return report


def quantization_cancel(report: QuantizationReport) -> Job:
    """Ask it to stop; what is built stays for quantization_resume."""
    if report.job is None:
        raise Conflict(f"Quantization {report.pk} has no job to cancel; it was cleaned up after its end.")
    return job_cancel(report.job)


def quantization_resume(report: QuantizationReport, *, user: Any = None) -> Job:
    """Queue it again, from the stage that it was in. Raises Conflict for one that runs or is done."""
    if report.artifact_id is not None:
        raise Conflict(f"Quantization {report.pk} is done: artifact {report.artifact}. Start another for another build.")
    if report.job is None:
        with transaction.atomic():
            return _enqueue(report, user)
    jobs_reap()  # a killed one is still noted as running
    report.job.refresh_from_db()
    return report.job if report.job.state == Job.State.QUEUED else job_retry(report.job, user=user)


def quantization_execute(number: int, context: JobContext) -> dict[str, Any]:
    """Build, measure, compare; register artifact and candidate. Called by the job.

    Raises QuantizationFailed where the reloaded build is too far from the unquantized model; then nothing of it stays.
    """
    report = quantization_get(number)
    if report.artifact is not None:
        return quantization_summary(report)
    context.progress(0.0, "loading the model")
    base = model_folder(report.base_model)
    adapter = report.adapter.folder if report.adapter else None
    work = Path(settings.DATA_DIR) / "quantization" / str(report.pk)
    build = work / "build"
    try:
        context.progress(0.05, "merging and quantizing")
        merged = quantize(
            base, adapter, report.mode, build, work=work, precision=report.precision, name=report.base_model,
            chats=examples(report.adapter),
        )  # fmt: skip
        questions = Questions(chats=tuple(tuple(one.prompt(1)) for one in builtin_candidates()), text=handbook())
        unquantized = _measured(context, "unquantized", merged, questions, plain=True, at=0.3)
        figures = _measured(context, "build", build, questions, at=0.65)
        fidelity = compare(unquantized, figures)
        _hold(report, fidelity)
    except QuantizationFailed:
        shutil.rmtree(work, ignore_errors=True)
        context.save_checkpoint({})
        raise
    context.progress(0.98, "registering")
    _register(report, base, build, unquantized, figures, fidelity)
    shutil.rmtree(work, ignore_errors=True)
    return quantization_summary(report)


def quantization_quality_set(report: QuantizationReport, quality: dict[str, Any]) -> QuantizationReport:
    """Note what an evaluation found: token F1, judge score, and their paired intervals against the unquantized model."""
    report.quality = quality
    report.save(update_fields=["quality"])
    return report


def quantization_choose(report: QuantizationReport, *, reason: str, user: Any = None) -> QuantizationChoice:
    """Note that an operator decided for this build, and why. Raises InvalidInput without a reason, Conflict without a build."""
    if not reason.strip():
        raise InvalidInput("Say why you choose this build; whoever comes after you will ask.", field="reason")
    if report.artifact_id is None:
        raise Conflict(f"Quantization {report.pk} has no build to choose; it is not done.")
    return QuantizationChoice.objects.create(
        report=report, reason=reason.strip(), created_by=user if getattr(user, "pk", None) else None
    )


def quantization_summary(report: QuantizationReport) -> dict[str, Any]:
    """What `quantize --json` prints of a finished quantization."""
    variant = report.variant
    return {
        "report": report.pk,
        "mode": report.mode,
        "artifact": report.artifact.name,
        "path": str(report.artifact.folder),
        "figures": report.figures,
        "unquantized": report.unquantized,
        "fidelity": report.fidelity,
        "candidate": f"{variant.name}@{variant.revision}" if variant else None,
    }


def adapter_named(given: str | int | ModelArtifact | None) -> ModelArtifact | None:
    """An adapter by its name, number or row. Raises InvalidInput, which names the newest."""
    if given is None or given == "" or isinstance(given, ModelArtifact):
        found = given or None
    else:
        number = given if isinstance(given, int) else int(given) if given.isdecimal() and len(given) < 10 else None
        found = ModelArtifact.objects.filter(**{"name": given} if number is None else {"pk": number}).first()
        if found is None:
            newest = ModelArtifact.objects.filter(kind=ModelArtifact.Kind.ADAPTER).first()
            known = f"The newest is {newest}." if newest else "There is none yet; train one with manage.py train_lora."
            raise InvalidInput(f"There is no adapter {given!r}. {known}", field="adapter")
    if found is not None and found.kind != ModelArtifact.Kind.ADAPTER:
        raise InvalidInput(f"{found} is a {found.get_kind_display()}, not an adapter.", field="adapter")
    return found


def _enqueue(report: QuantizationReport, user: Any) -> Job:
    title = f"Quantize {report.adapter or report.base_model} to {report.mode}"
    report.job = job_enqueue(
        QUANTIZE, {"report": report.pk}, title=title, user=user, idempotency_key=f"quantization-{report.pk}"
    )
    report.save(update_fields=["job"])
    return report.job


def examples(adapter: ModelArtifact | None) -> list[list[dict[str, str]]]:
    """Chats with answers to calibrate by: those that the adapter learnt from, as many as are needed, and the built-in ones."""
    run = TrainingRun.objects.filter(artifact=adapter).first() if adapter else None
    learnt = chats(run.dataset, SFTExample.Split.TRAIN)[:EXAMPLES] if run else []
    builtin = [[*one.prompt(1), {"role": "assistant", "content": one.corrections[0]}] for one in builtin_candidates()]
    return [*learnt, *builtin]


def handbook() -> str:
    """What perplexity is measured on."""
    pages = sorted((Path(settings.BASE_DIR) / "docs").glob("*.md"))
    return "\n\n".join(page.read_text() for page in pages)


def _measured(context: JobContext, what: str, folder: Path, questions: Questions, *, at: float, plain: bool = False) -> Figures:
    """Figures of a folder, measured in a process of its own; those of an earlier attempt where it got so far."""
    kept = (context.checkpoint or {}).get(what)
    if kept is not None:
        return Figures(**kept)
    context.progress(at, f"measuring the {'unquantized model' if plain else 'build'}")
    figures = measure(
        folder, questions, plain=plain, threads=settings.ADAPTRAG_LOCAL_THREADS or 1,
        tick=lambda: context.progress(at),
    )  # fmt: skip
    context.save_checkpoint({**(context.checkpoint or {}), what: asdict(figures)})
    return figures


def _hold(report: QuantizationReport, fidelity: Fidelity) -> None:
    rise, most = fidelity.perplexity_rise, settings.ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE
    same, least = fidelity.answers_overlap, settings.ADAPTRAG_QUANTIZATION_MIN_OVERLAP
    if not rise <= most:
        raise QuantizationFailed(
            f"Reloaded, the {report.mode} build's perplexity is {rise:+.1%} of the unquantized model's; the bound is "
            f"{most:+.0%} (ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE). Nothing was registered. Take another mode."
        )
    if not same >= least:
        raise QuantizationFailed(
            f"Reloaded, the {report.mode} build shares {same:.2f} of its words with the unquantized model's answers to the "
            f"same {fidelity.answers} questions; the bound is {least:.2f} (ADAPTRAG_QUANTIZATION_MIN_OVERLAP). "
            "Nothing was registered. Take another mode."
        )


def _register(
    report: QuantizationReport, base: Path, build: Path, unquantized: Figures, figures: Figures, fidelity: Fidelity
) -> None:
    """Move the build to its place for good, then write all rows at once. A name holds the hash of the content."""
    digest = _sha256(sorted(build.glob("*.safetensors"))) if build.is_dir() else ""
    name = f"quant-{report.pk}-{report.mode}-{digest[:12]}"
    target = Path(settings.DATA_DIR) / ARTIFACTS / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        build.rename(target)
    with transaction.atomic():
        report.artifact = ModelArtifact.objects.create(
            name=name,
            kind=ModelArtifact.Kind.QUANTIZED,
            base_model=report.base_model,
            base_sha256=_sha256(sorted(base.glob("*.safetensors"))),
            parent=report.adapter,
            path=str(target.relative_to(settings.DATA_DIR)),
            sha256=digest,
            bytes_on_disk=figures.bytes_on_disk,
            provenance={"quantization": report.pk, "adapter": report.adapter.name if report.adapter else None},
            parameters={"mode": report.mode, "precision": report.precision},
            metrics=figures.kept() | asdict(fidelity),
            versions={library: importlib.metadata.version(library) for library in LIBRARIES},
            created_by=report.created_by,
        )
        report.figures, report.unquantized, report.fidelity = figures.kept(), unquantized.kept(), asdict(fidelity)
        report.variant = _candidate(report)
        report.save(update_fields=["artifact", "figures", "unquantized", "fidelity", "variant"])


def _candidate(report: QuantizationReport) -> AgentVariant | None:
    """A candidate that answers with the build: the agent's next revision, or its first, which takes after the adapter's."""
    if not report.agent:
        return None
    newest = AgentVariant.objects.filter(name=report.agent).order_by("-revision").first()
    values = candidate_values(newest) | {
        "strategy": AGENT,
        "artifact": report.artifact,
        "state": AgentVariant.State.CANDIDATE,
        "inherit": INHERIT,
        "note": f"Made by {report}: {report.mode} of {report.adapter or report.base_model}.",
        "user": report.created_by,
    }
    if newest is not None:
        return agent_revise(newest, **values)
    same = (
        AgentVariant.objects.filter(artifact=report.adapter).exclude(state=AgentVariant.State.RETIRED)
        if report.adapter
        else None
    )
    model = same.order_by("-revision").first() if same is not None else None
    return agent_register(name=report.agent, predecessor=model, **values)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
