"""Trainings: asked for, run with progress and checkpoints, resumed; the result becomes an artifact and a candidate."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shlex
import shutil
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import JobContext, job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from agents.llm.adapters import WEIGHTS
from agents.llm.weights import DEFAULT_MODEL, model_folder
from agents.models import AgentVariant, ModelArtifact
from agents.services import agent_name_check, agent_register, agent_revise
from training.errors import UnknownRun
from training.launch import launch
from training.lora import train_lora
from training.models import SFTExample, TrainingRun
from training.recipe import PRECISIONS, SCHEDULES, Outcome, Point, Recipe
from training.services.candidates import candidate_values
from training.services.datasets import DatasetRequest, chats, dataset_enqueue, dataset_for
from training.tasks import TRAIN

INHERIT = 0.25  # share of the evidence of the agent that a first candidate takes after
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What to train. dataset None: the newest; with `prepare` one is made where there is none, outside the web process.

    `agent`: whose candidate the result becomes; empty for none. `launcher`: options of `accelerate launch`, for machines.
    """

    dataset: int | None = None
    prepare: bool = False
    model: str = DEFAULT_MODEL
    recipe: Recipe = field(default_factory=Recipe)
    processes: int = 1
    launcher: str = ""
    agent: str = "lora_rag"
    user: Any = None


def training_request(values: dict[str, Any], *, dataset: int | None, user: Any) -> TrainingRequest:
    """A request out of fields of TrainingRequest and of its recipe, as a form or a job's payload has them."""
    known = {one.name for one in fields(Recipe)}
    recipe = replace(Recipe(), **{name: value for name, value in values.items() if name in known})
    others = {name: value for name, value in values.items() if name not in known}
    return TrainingRequest(dataset=dataset, recipe=recipe, user=user, **others)


def training_prepare(values: dict[str, Any], *, source: str = "all", user: Any = None) -> Job:
    """Freeze a dataset out of the log on the queue, and train on it then. values: as of training_request.

    For the web process, which loads no tokenizer. Raises InvalidInput.
    """
    request = training_request(values, dataset=None, user=user)
    _check(request)
    return dataset_enqueue(DatasetRequest(source=source, student=request.model, user=user), train=values)


def training_get(number: int) -> TrainingRun:
    """Raises UnknownRun, which names the newest."""
    run = TrainingRun.objects.select_related("dataset", "job", "artifact").filter(pk=number).first()
    if run is None:
        newest = TrainingRun.objects.values_list("pk", flat=True).first()
        raise UnknownRun(f"There is no training {number}. {f'The newest is {newest}.' if newest else 'There is none yet.'}")
    return run


def training_create(request: TrainingRequest) -> TrainingRun:
    """The run's row, not started. Raises InvalidInput naming what is wrong, UnknownDataset, NothingToLearn."""
    _check(request)
    run = TrainingRun.objects.create(
        dataset=dataset_for(request.dataset, prepare=request.prepare, user=request.user),
        base_model=request.model,
        recipe=asdict(request.recipe),
        processes=request.processes,
        launcher=request.launcher,
        agent=request.agent,
        created_by=request.user if getattr(request.user, "pk", None) else None,
    )
    run.path = f"training/runs/{run.pk}"
    run.save(update_fields=["path"])
    return run


def training_start(request: TrainingRequest) -> TrainingRun:
    """Create a run and put it on the queue."""
    run = training_create(request)
    with transaction.atomic():
        run.job = job_enqueue(
            TRAIN, {"run": run.pk}, title=f"Train {run.base_model} on {run.dataset}", user=request.user,
            idempotency_key=f"training-{run.pk}",
        )  # fmt: skip
        run.save(update_fields=["job"])
    run.refresh_from_db()
    return run


def training_cancel(run: TrainingRun) -> Job:
    """Ask it to stop; its last good checkpoint stays, and training_resume goes on from it."""
    if run.job is None:
        raise Conflict(f"Training {run.pk} has no job to cancel; it was cleaned up after its end.")
    return job_cancel(run.job)


def training_resume(run: TrainingRun, *, micro: int | None = None, quantized: bool | None = None, user: Any = None) -> Job:
    """Queue it again, from its last checkpoint.

    Where memory ran out, with smaller portions (micro) or 4-bit weights (quantized); no more of a recipe can change.
    Raises Conflict for one that runs or is done, InvalidInput.
    """
    if run.artifact_id is not None:
        raise Conflict(f"Training {run.pk} is done: artifact {run.artifact}. Start another to train on.")
    if micro is not None or quantized is not None:
        if run.job is not None:
            jobs_reap()
            run.job.refresh_from_db()
            if run.job.state == Job.State.RUNNING:
                raise Conflict(f"Training {run.pk} runs; cancel it before its recipe changes.", job=run.job.pk)
        changed = {"micro": micro, "quantized": quantized}
        run.recipe = run.recipe | {name: value for name, value in changed.items() if value is not None}
        _check_recipe(Recipe(**run.recipe))
        run.save(update_fields=["recipe"])
    if run.job is None:
        with transaction.atomic():
            run.job = job_enqueue(TRAIN, {"run": run.pk}, title=f"Train {run.base_model} on {run.dataset}", user=user)
            run.save(update_fields=["job"])
        return run.job
    jobs_reap()  # a killed one is still noted as running
    run.job.refresh_from_db()
    return run.job if run.job.state == Job.State.QUEUED else job_retry(run.job, user=user)


def training_execute(number: int, context: JobContext) -> dict[str, Any]:
    """Train, or go on from the last checkpoint; register artifact and candidate. Called by the job."""
    run = training_get(number)
    if run.artifact is not None:
        return _summary(run)
    context.progress(0.0, "loading the model")
    folder = model_folder(run.base_model)
    recipe = Recipe(**run.recipe)
    if not recipe.threads:
        recipe = Recipe(**run.recipe | {"threads": settings.ADAPTRAG_TRAINING_THREADS})
    train, held_out = (chats(run.dataset, split) for split in (SFTExample.Split.TRAIN, SFTExample.Split.VALIDATION))
    recorder = _Recorder(run, context, recipe)
    alone = run.processes == 1 and not run.launcher
    begin = train_lora if alone else launch(run.processes, shlex.split(run.launcher))
    outcome = begin(
        folder, train, held_out, run.folder, recipe,
        on_point=recorder.point, on_checkpoint=lambda step: context.save_checkpoint({"step": step}),
    )  # fmt: skip
    recorder.write()
    _register(run, folder, outcome)
    shutil.rmtree(run.folder, ignore_errors=True)  # checkpoints: an artifact is not trained on
    run.refresh_from_db()
    return _summary(run)


class _Recorder:
    """Writes the loss curve and progress as they come: twice a second, and before each checkpoint, from which a killed run goes
    on without asking for its points again."""

    def __init__(self, run: TrainingRun, context: JobContext, recipe: Recipe) -> None:
        self._run, self._context, self._recipe = run, context, recipe
        self._curve: list[dict[str, Any]] | None = None
        self._written = 0.0

    def point(self, point: Point) -> None:
        if self._curve is None:  # where a resumed training begins, its first point tells
            self._curve = [known for known in self._run.curve if known["step"] < point.step]
        values = {name: value for name, value in asdict(point).items() if value is not None}
        self._curve.append({name: round(value, 5) for name, value in values.items()})
        if time.monotonic() - self._written > 0.5 or point.step % self._recipe.spacing() == 0:
            self.write()
        loss = f"loss {point.train_loss:.3f}" if point.train_loss is not None else f"validation {point.validation_loss:.3f}"
        left = f", {point.seconds_left:.0f} s left" if point.seconds_left else ""
        words = f"step {point.step} of {self._recipe.steps}, {loss}, {point.tokens_per_second:.0f} tokens/s{left}"
        self._context.progress(0.02 + 0.96 * point.step / self._recipe.steps, words)

    def write(self) -> None:
        self._written = time.monotonic()
        if self._curve is None:
            return
        self._run.curve = self._curve
        self._run.save(update_fields=["curve"])


def _register(run: TrainingRun, folder: Path, outcome: Outcome) -> None:
    """Move the adapter to its place for good; artifact, candidate and the run's end are one transaction, so that a kill leaves
    all or nothing. A name holds the hash of the content."""
    digest = _sha256([outcome.path / WEIGHTS])
    name = f"lora-{run.pk}-{digest[:12]}"
    target = Path(settings.DATA_DIR) / "artifacts" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        outcome.path.replace(target)
    figures = asdict(outcome)
    for unwanted in ("path", "points"):
        del figures[unwanted]
    with transaction.atomic():
        artifact, _ = ModelArtifact.objects.get_or_create(
            name=name,
            defaults={
                "kind": ModelArtifact.Kind.ADAPTER,
                "base_model": run.base_model,
                "base_sha256": _sha256(sorted(folder.glob("*.safetensors"))),
                "path": str(target.relative_to(settings.DATA_DIR)),
                "sha256": digest,
                "bytes_on_disk": sum(file.stat().st_size for file in target.iterdir()),
                "provenance": {"training": run.pk, "dataset": run.dataset_id, "dataset_sha256": run.dataset.sha256},
                "parameters": run.recipe,
                "metrics": figures,
                "versions": {library: importlib.metadata.version(library) for library in LIBRARIES},
                "created_by": run.created_by,
            },
        )
        run.artifact, run.result = artifact, figures
        run.save(update_fields=["artifact", "result"])
        _candidate(run, artifact)


def _candidate(run: TrainingRun, artifact: ModelArtifact) -> None:
    """A candidate that answers with the artifact: the agent's next revision, or its first, which takes after hybrid_rag."""
    if not run.agent:
        return
    newest = AgentVariant.objects.filter(name=run.agent).order_by("-revision").first()
    values = candidate_values(newest, run.base_model) | {
        "strategy": "lora_rag",
        "artifact": artifact,
        "state": AgentVariant.State.CANDIDATE,
        "inherit": INHERIT,
        "note": f"Made by training {run.pk} on {run.dataset}.",
        "user": run.created_by,
    }
    if newest is not None:
        agent_revise(newest, **values)
        return
    live = [AgentVariant.State.ACTIVE, AgentVariant.State.CANARY]
    model = AgentVariant.objects.filter(strategy="hybrid_rag", state__in=live).order_by("-revision").first()
    agent_register(name=run.agent, predecessor=model, **values)


def _summary(run: TrainingRun) -> dict[str, Any]:
    """What `train_lora --json` prints and the API returns of a finished run."""
    variant = run.artifact.variants.order_by("pk").first()
    names = (
        "steps",
        "best_step",
        "train_loss",
        "validation_loss",
        "tokens",
        "tokens_per_second",
        "peak_memory_bytes",
        "seconds",
        "learning_rate",
    )
    return {
        "run": run.pk,
        "artifact": run.artifact.name,
        "path": str(run.artifact.folder),
        **{name: run.result.get(name) for name in names},
        "candidate": f"{variant.name}@{variant.revision}" if variant else None,
    }


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _check_recipe(recipe: Recipe) -> None:
    whole = {"steps": (1, 1_000_000), "r": (1, 1024), "batch": (1, 4096), "micro": (1, 4096), "every": (0, 1_000_000)}
    for name, (low, high) in whole.items():
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from {low} to {high:,}, not {value!r}.", field=name)
    for name, low, high in (("learning_rate", 1e-8, 1.0), ("plus", 1.0, 1000.0), ("warmup", 0.0, 1.0), ("dropout", 0.0, 0.9)):
        value = getattr(recipe, name)
        if name == "learning_rate" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InvalidInput(f"{name} must lie between {low:g} and {high:g}, not {value!r}.", field=name)
    if recipe.schedule not in SCHEDULES:
        raise InvalidInput(f"schedule must be one of {', '.join(SCHEDULES)}, not {recipe.schedule!r}.", field="schedule")
    if recipe.precision not in PRECISIONS:
        raise InvalidInput(f"precision must be one of {', '.join(PRECISIONS)}, not {recipe.precision!r}.", field="precision")


def _check(request: TrainingRequest) -> None:
    _check_recipe(request.recipe)
    if not 1 <= request.processes <= 1024:
        raise InvalidInput(f"processes must lie between 1 and 1,024, not {request.processes!r}.", field="processes")
    try:
        shlex.split(request.launcher)
    except ValueError as error:
        raise InvalidInput(f"--launcher {request.launcher!r} is no command line: {error}.", field="launcher") from error
    if request.agent:
        agent_name_check(request.agent)
