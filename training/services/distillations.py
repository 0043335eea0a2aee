"""Distillations: asked for, run under a budget, resumed without paying twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import JobContext, job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from adaptrag.common.reaper import jobs_reap
from agents.llm.base import Usage
from agents.llm.factory import chat_model, validate_options
from rewards.models import Interaction, Reward
from training.distillation import PROMPT_REVISION, Item, Taught, distil, teacher_chat
from training.errors import BudgetSpent, NothingToLearn, UnknownRun
from training.models import DistillationRun, SFTExample, TeacherAnswer, TeacherBudget
from training.services.datasets import dataset_for, passages_of, prompt_of, reserved_questions
from training.sft import normalised
from training.tasks import DISTIL

MAX_TOKENS = 96
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class DistillationRequest:
    """Whom to ask about what. dataset None: all answered questions of the log. options: as on an agent's row, prices too."""

    dataset: int | None = None
    limit: int | None = None
    backend: str = "openai_compatible"
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    samples: int = 1
    concurrency: int = 4
    budget: str = "default"
    user: Any = None


def budget_get(name: str = "default") -> TeacherBudget:
    """The budget of that name; made with ADAPTRAG_TEACHER_BUDGET_USD where it is new."""
    limit = round(settings.ADAPTRAG_TEACHER_BUDGET_USD * MILLION)
    return TeacherBudget.objects.get_or_create(name=name, defaults={"limit": limit})[0]


def budget_set(name: str, *, limit_usd: float) -> TeacherBudget:
    """Change what teachers may cost in all. What was spent stays."""
    if not 0 <= limit_usd < 10**9:
        raise InvalidInput(f"The limit must be a sum in US dollars, not {limit_usd!r}.", field="limit_usd")
    budget = budget_get(name)
    TeacherBudget.objects.filter(pk=budget.pk).update(limit=round(limit_usd * MILLION))
    budget.refresh_from_db()
    return budget


def budget_reserve(budget: TeacherBudget, amount: int) -> bool:
    """Take `amount` (millionths of a dollar) out of what is left, in one statement: two workers can't both take the last."""
    return bool(TeacherBudget.objects.filter(pk=budget.pk, spent__lte=F("limit") - amount).update(spent=F("spent") + amount))


def distillation_get(number: int) -> DistillationRun:
    run = DistillationRun.objects.select_related("dataset", "job", "budget").filter(pk=number).first()
    if run is None:
        newest = DistillationRun.objects.values_list("pk", flat=True).first()
        raise UnknownRun(f"There is no distillation {number}. {f'The newest is {newest}.' if newest else 'There is none yet.'}")
    return run


def distillation_create(request: DistillationRequest) -> DistillationRun:
    """The run's row, not started. Raises InvalidInput naming what is wrong, UnknownDataset."""
    model = request.model or settings.ADAPTRAG_TEACHER_MODEL
    if not model and request.backend != "local":
        raise InvalidInput("Name the teacher's model (--model), or set ADAPTRAG_TEACHER_MODEL.", field="model")
    validate_options(request.backend, request.options)
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
        backend=request.backend,
        model=model,
        options=request.options,
        parameters={
            "limit": request.limit,
            "samples": request.samples,
            "concurrency": request.concurrency,
            "prompt_revision": PROMPT_REVISION,
        },
        created_by=request.user if getattr(request.user, "pk", None) else None,
    )


def distillation_start(request: DistillationRequest) -> DistillationRun:
    """Create a run and put it on the queue."""
    run = distillation_create(request)
    with transaction.atomic():
        run.job = job_enqueue(DISTIL, {"run": run.pk}, title=f"Ask the teacher {run.model or run.backend}", user=request.user)
        run.save(update_fields=["job"])
    run.refresh_from_db()
    return run


def distillation_cancel(run: DistillationRun) -> Job:
    """Ask it to stop; what is answered stays."""
    if run.job is None:
        raise Conflict(f"Distillation {run.pk} has no job to cancel; it was cleaned up after its end.")
    return job_cancel(run.job)


def distillation_resume(run: DistillationRun, *, user: Any = None) -> Job:
    """Queue it again: what is answered is not asked a second time. Raises Conflict for one that runs or is done."""
    if run.job is None:
        raise Conflict(f"The job of distillation {run.pk} was cleaned up; start another, it skips what is answered.")
    jobs_reap()
    run.job.refresh_from_db()
    return run.job if run.job.state == Job.State.QUEUED else job_retry(run.job, user=user)


def distillation_execute(number: int, context: JobContext) -> dict[str, Any]:
    """Ask about what is not answered yet. Called by the job. Raises BudgetSpent where not one call could be paid."""
    run = distillation_get(number)
    items = _items(run)
    if not items and not run.answers.exists():
        raise NothingToLearn("No answered question with passages is left to ask the teacher about.")
    teacher = chat_model(run.backend, run.model, {"max_retries": 6} | run.options)
    samples = run.parameters["samples"]
    reserved: dict[str, int] = {}
    stopped = False

    def reserve(item: Item) -> bool:
        nonlocal stopped
        amount = _most(item, run.options, samples)
        if not budget_reserve(run.budget, amount):
            stopped = True
            return False
        reserved[item.key] = amount
        return True

    failures: Counter[str] = Counter()
    done = 0
    for taught in distil(
        items, teacher, samples=samples, concurrency=run.parameters["concurrency"], max_tokens=MAX_TOKENS, reserve=reserve
    ):
        _keep(run, taught, reserved.pop(taught.key))
        if taught.failed:
            failures[taught.key] += 1
        else:
            failures.pop(taught.key, None)
            done += 1
        context.progress(done / len(items), f"{done} of {len(items)} answered")
    _count(run, failed=len(failures))
    if stopped and not done:
        raise BudgetSpent(
            f"The budget {run.budget.name!r} has no room for one more call. Raise its limit in the admin, then retry."
        )
    return distillation_summary(run) | {"stopped_by_budget": stopped}


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


def _items(run: DistillationRun) -> list[Item]:
    """Answered questions with passages, newest first, that no teacher of this name was asked about under this prompt."""
    rows: QuerySet[Interaction] = Interaction.objects.filter(state=Interaction.State.ANSWERED).order_by("-id")
    if run.dataset_id is not None:
        chosen = SFTExample.objects.filter(dataset=run.dataset_id).exclude(interaction=None)
        rows = rows.filter(pk__in=chosen.values("interaction"))
    asked = TeacherAnswer.objects.filter(run__model=run.model, run__backend=run.backend, prompt_revision=PROMPT_REVISION)
    rows = rows.exclude(pk__in=asked.values("interaction"))
    taboo = {normalised(question) for question in reserved_questions()}
    gold = dict(Reward.objects.exclude(correction="").order_by("updated_at").values_list("interaction_id", "correction"))
    items: list[Item] = []
    seen: set[str] = set()
    limit = run.parameters["limit"]
    left = math.inf if limit is None else limit - run.answers.count()
    for row in rows.iterator(chunk_size=200):
        if len(items) >= left:
            break
        question = normalised(row.question)
        if question in taboo or question in seen or not passages_of(row):
            continue
        seen.add(question)
        items.append(Item(key=str(row.pk), prompt=prompt_of(row), gold=gold.get(row.pk, "")))
    return items


def _most(item: Item, options: dict[str, Any], samples: int) -> int:
    """The most that asking an item can cost, in millionths of a dollar, at two bytes a token (English has four)."""
    size = sum(len(message.content.encode()) for message in teacher_chat(item.prompt)) / 2 + 50
    cost = size * options.get("price_prompt_per_million", 0) + MAX_TOKENS * options.get("price_completion_per_million", 0)
    return math.ceil(samples * cost)


@transaction.atomic
def _keep(run: DistillationRun, taught: Taught, reserved: int) -> None:
    """The answer, and what it really cost in place of what was reserved."""
    cost = round(taught.usage.cost_usd * MILLION)
    TeacherBudget.objects.filter(pk=run.budget_id).update(spent=F("spent") + (cost - reserved))
    _spent(run, taught.usage)
    if not taught.failed:
        TeacherAnswer.objects.create(
            run=run,
            interaction_id=taught.key,
            text=taught.text,
            accepted=taught.accepted,
            reason=taught.reason,
            model=taught.model,
            prompt_revision=PROMPT_REVISION,
            samples=list(taught.samples),
            prompt_tokens=taught.usage.prompt_tokens,
            completion_tokens=taught.usage.completion_tokens,
            cost_usd=taught.usage.cost_usd,
        )


def _spent(run: DistillationRun, usage: Usage) -> None:
    DistillationRun.objects.filter(pk=run.pk).update(
        prompt_tokens=F("prompt_tokens") + usage.prompt_tokens,
        completion_tokens=F("completion_tokens") + usage.completion_tokens,
        cost_usd=F("cost_usd") + usage.cost_usd,
    )


def _count(run: DistillationRun, *, failed: int) -> None:
    answers: Sequence[tuple[bool, str]] = list(run.answers.values_list("accepted", "reason"))
    run.counts = {
        "asked": len(answers),
        "accepted": sum(accepted for accepted, _ in answers),
        "refused": dict(Counter(reason for accepted, reason in answers if not accepted)),
        "failed": failed,
    }
    run.save(update_fields=["counts"])
