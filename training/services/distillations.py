"""Distillations: asked for, run under a budget, resumed without paying twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import JobCancelled, JobContext, job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from agents.llm.factory import chat_model
from training.distillation import PROMPT_REVISION, Item, Taught, distil
from training.errors import BudgetSpent, NothingToLearn, UnknownRun
from training.models import DistillationRun
from training.services.answers import answer_keep, answers_count, items_of
from training.services.batches import batch_ask
from training.services.datasets import dataset_for
from training.services.teachers import MAX_TOKENS, budget_get, budget_reserve, most, teacher_resolved
from training.tasks import DISTIL


@dataclass(frozen=True, kw_only=True)
class DistillationRequest:
    """Whom to ask about what. dataset None: all answered questions of the log. options: as on an agent's row, prices too.

    backend, model and options stand in for those of ADAPTRAG_TEACHER_... batch: by the provider's batch API, within a day.
    """

    dataset: int | None = None
    limit: int | None = None
    backend: str = ""
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    samples: int = 1
    concurrency: int = 4
    batch: bool = False
    budget: str = "default"
    user: Any = None


def distillation_get(number: int) -> DistillationRun:
    run = DistillationRun.objects.select_related("dataset", "job", "budget").filter(pk=number).first()
    if run is None:
        newest = DistillationRun.objects.values_list("pk", flat=True).first()
        raise UnknownRun(f"There is no distillation {number}. {f'The newest is {newest}.' if newest else 'There is none yet.'}")
    return run


def distillation_create(request: DistillationRequest) -> DistillationRun:
    """The run's row, not started. Raises InvalidInput naming what is wrong, UnknownDataset."""
    backend, model, options = teacher_resolved(request.backend, request.model, request.options)
    if request.batch and backend != "openai_compatible":
        raise InvalidInput(f"The backend {backend} has no batch API; leave out --batch.", field="batch")
    bounds = {"samples": (1, 5), "concurrency": (1, 64), "limit": (1, 10_000_000)}
    for name, (low, high) in bounds.items():
        value = getattr(request, name)
        if value is None and name == "limit":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from {low} to {high:,}, not {value!r}.", field=name)
    return DistillationRun.objects.create(
        dataset=None if request.dataset is None else dataset_for(request.dataset),
        budget=budget_get(request.budget),
        backend=backend,
        model=model,
        options=options,
        parameters={
            "limit": request.limit,
            "samples": request.samples,
            "concurrency": request.concurrency,
            "batch": request.batch,
            "prompt_revision": PROMPT_REVISION,
        },
        created_by=request.user if getattr(request.user, "pk", None) else None,
    )


def distillation_start(request: DistillationRequest) -> DistillationRun:
    """Create a run and put it on the queue."""
    run = distillation_create(request)
    _enqueue(run, request.user)
    run.refresh_from_db()
    return run


def distillation_cancel(run: DistillationRun) -> Job:
    """Ask it to stop; what is answered stays, calls under way are awaited and kept, and a batch stays with its provider."""
    if run.job is None:
        raise Conflict(f"Distillation {run.pk} has no job to cancel; it was cleaned up after its end.")
    return job_cancel(run.job)


def distillation_resume(run: DistillationRun, *, user: Any = None) -> Job:
    """Queue it again: what is answered is not asked a second time.

    One that ended with questions unanswered (its budget was spent, calls failed) gets another job. Raises Conflict for one that
    runs, or where nothing is left to ask.
    """
    if run.job is not None:
        jobs_reap()
        run.job.refresh_from_db()
        if run.job.state == Job.State.QUEUED:
            return run.job
        if run.job.state != Job.State.SUCCEEDED:
            return job_retry(run.job, user=user)
    if not items_of(run):
        raise Conflict(f"Distillation {run.pk} is done: nothing that it was to ask is left. Start another for new questions.")
    return _enqueue(run, user)


def _enqueue(run: DistillationRun, user: Any) -> Job:
    with transaction.atomic():
        run.job = job_enqueue(
            DISTIL, {"run": run.pk}, title=f"Ask the teacher {run.model or run.backend}", user=user,
            idempotency_key=f"distillation-{run.pk}",
        )  # fmt: skip
        run.save(update_fields=["job"])
    return run.job


def distillation_execute(number: int, context: JobContext) -> dict[str, Any]:
    """Ask about what is not answered yet. Called by the job. Raises BudgetSpent where not one call could be paid."""
    run = distillation_get(number)
    items = items_of(run)
    if not items and not run.batch_id and not run.answers.exists():
        raise NothingToLearn("No answered question with passages is left to ask the teacher about.")
    try:
        done, failed, stopped = (batch_ask if run.parameters.get("batch") else _ask)(run, items, context)
    except (JobCancelled, KeyboardInterrupt):
        answers_count(run, failed=0)
        raise
    answers_count(run, failed=failed)
    if stopped and not done:
        raise BudgetSpent(
            f"The budget {run.budget.name!r} has no room for one more call. Raise its limit in the admin, then retry."
        )
    return distillation_summary(run) | {"stopped_by_budget": stopped}


def _ask(run: DistillationRun, items: Sequence[Item], context: JobContext) -> tuple[int, int, bool]:
    """How many are answered, how many failed, and whether the budget stopped it."""
    teacher = chat_model(run.backend, run.model, {"max_retries": 6} | run.options)
    samples = run.parameters["samples"]
    reserved: dict[str, int] = {}
    failed: set[str] = set()
    done = 0
    stopped = False

    def reserve(item: Item) -> bool:
        nonlocal stopped
        amount = most(item, run.options, samples)
        if not budget_reserve(run.budget, amount):
            stopped = True
            return False
        reserved[item.key] = amount
        return True

    def keep(taught: Taught) -> None:
        nonlocal done
        answer_keep(run, taught, reserved=reserved.pop(taught.key))
        if taught.failed:
            failed.add(taught.key)
        else:
            failed.discard(taught.key)
            done += 1

    def tick() -> None:
        context.progress(done / len(items), f"{done} of {len(items)} answered")

    distil(
        items, teacher, samples=samples, concurrency=run.parameters["concurrency"], max_tokens=MAX_TOKENS,
        reserve=reserve, keep=keep, tick=tick,
    )  # fmt: skip
    return done, len(failed), stopped


def distillation_summary(run: DistillationRun) -> dict[str, Any]:
    """What `distill_teacher --json` prints and the API returns."""
    run.refresh_from_db()
    return {
        "run": run.pk,
        "model": run.model,
        **run.counts,
        "prompt_tokens": run.prompt_tokens,
        "completion_tokens": run.completion_tokens,
        "cost_usd": run.cost_usd,
    }
