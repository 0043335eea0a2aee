"""What a distillation asks, and the rows of what was answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import F, QuerySet

from rewards.models import Interaction, Reward
from training.distillation import PROMPT_REVISION, Item, Taught
from training.models import DistillationRun, SFTExample, TeacherAnswer
from training.services.datasets import passages_of, prompt_of, reserved_questions
from training.services.teachers import MILLION, budget_settle
from training.sft import normalised


def items_of(run: DistillationRun) -> list[Item]:
    """Answered questions with passages, newest first, that no teacher of this name has answered under this prompt."""
    rows: QuerySet[Interaction] = Interaction.objects.filter(state=Interaction.State.ANSWERED).order_by("-id")
    if run.dataset_id is not None:
        chosen = SFTExample.objects.filter(dataset=run.dataset_id).exclude(interaction=None)
        rows = rows.filter(pk__in=chosen.values("interaction"))
    rows = rows.exclude(pk__in=_answers(run).filter(partial=False).values("interaction"))
    taboo = {normalised(question) for question in reserved_questions()}
    found: list[Interaction] = []
    seen: set[str] = set()
    limit = run.parameters["limit"]
    left = math.inf if limit is None else limit - run.answers.filter(partial=False).count()
    for row in rows.iterator(chunk_size=200):
        if len(found) >= left:
            break
        question = normalised(row.question)
        if question in taboo or question in seen or not passages_of(row):
            continue
        seen.add(question)
        found.append(row)
    return _items(run, found)


def items_named(run: DistillationRun, keys: Iterable[str]) -> list[Item]:
    """Those of a batch by their keys; what was deleted meanwhile is left out."""
    return _items(run, Interaction.objects.filter(pk__in=list(keys)))


def _items(run: DistillationRun, rows: Iterable[Interaction]) -> list[Item]:
    gold = dict(Reward.objects.exclude(correction="").order_by("updated_at").values_list("interaction_id", "correction"))
    begun = {answer.interaction_id: answer for answer in _answers(run).filter(partial=True)}
    items = []
    for row in rows:
        said = begun.get(row.pk)
        items.append(
            Item(
                key=str(row.pk),
                prompt=prompt_of(row),
                gold=gold.get(row.pk, ""),
                said=(said.text, *said.samples) if said else (),
                model=said.model if said else "",
            )
        )
    return items


def _answers(run: DistillationRun) -> QuerySet[TeacherAnswer]:
    """Of the same teacher, in this run or another, to the same instructions."""
    return TeacherAnswer.objects.filter(run__model=run.model, run__backend=run.backend, prompt_revision=PROMPT_REVISION)


@transaction.atomic
def answer_keep(run: DistillationRun, taught: Taught, *, reserved: int) -> None:
    """The answer, or those samples of it that came, and what it really cost in place of what was reserved."""
    usage = taught.usage
    budget_settle(run.budget_id, reserved=reserved, cost=round(usage.cost_usd * MILLION))
    added = {
        "prompt_tokens": F("prompt_tokens") + usage.prompt_tokens,
        "completion_tokens": F("completion_tokens") + usage.completion_tokens,
        "cost_usd": F("cost_usd") + usage.cost_usd,
    }
    DistillationRun.objects.filter(pk=run.pk).update(**added)
    if not taught.samples:
        return
    row, _ = TeacherAnswer.objects.update_or_create(
        run=run,
        interaction_id=taught.key,
        defaults={
            "text": taught.text,
            "accepted": taught.accepted,
            "partial": taught.failed,
            "reason": taught.reason,
            "model": taught.model,
            "prompt_revision": PROMPT_REVISION,
            "samples": list(taught.samples[1:]),
        },
    )
    TeacherAnswer.objects.filter(pk=row.pk).update(**added)


def answers_count(run: DistillationRun, *, failed: int) -> None:
    answers: Sequence[tuple[bool, str]] = list(run.answers.filter(partial=False).values_list("accepted", "reason"))
    run.counts = {
        "asked": len(answers),
        "accepted": sum(accepted for accepted, _ in answers),
        "refused": dict(Counter(reason for accepted, reason in answers if not accepted)),
        "failed": failed,
    }
    run.save(update_fields=["counts"])
