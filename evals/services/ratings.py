"""A judge rates logged answers, as people do; what both rated says how far the judge can be believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from adaptrag.common.jobs import job_enqueue
from adaptrag.common.models import Job
from evals.judging import judge_named
from evals.selectors import rater_name
from evals.tasks import RATE
from rewards.models import Interaction, Reward
from rewards.services import feedback_record

MOST = 5000  # interactions a job


def interactions_judge(ids: Iterable[UUID], *, backend: str = "", model: str = "", user: Any = None) -> Job:
    """Let the judge rate logged answers, on the queue. Raises InvalidInput where no judge model is named or configured."""
    named = judge_named(backend, model)
    backend, model = named.backend, named.model
    chosen = sorted(map(str, ids))
    if not 1 <= len(chosen) <= MOST:
        raise InvalidInput(f"Choose 1 to {MOST:,} interactions, not {len(chosen):,}.", field="interactions")
    payload = {"interactions": chosen, "backend": backend, "model": model}
    return job_enqueue(RATE, payload, title=f"Judge {len(chosen)} answers with {model or backend}", user=user)


def interactions_rate(
    ids: Iterable[str], *, backend: str, model: str, progress: Callable[[float, str], None]
) -> dict[str, Any]:
    """Rate answered interactions, one rating each by this judge; returns counts.

    It sees no corrections: people's ratings are what it is calibrated by, and a correction would tell it theirs.
    """
    judge = judge_named(backend, model).judge
    rows = Interaction.objects.filter(pk__in=list(ids), state=Interaction.State.ANSWERED)
    total, rated, failed, last = rows.count(), 0, 0, ""
    for number, interaction in enumerate(rows):
        progress(number / total, f"{number} of {total} answers")
        try:
            verdict = judge.pointwise(
                question=interaction.question,
                answer=interaction.answer,
                passages=[source["text"] for source in interaction.sources if source.get("used", True)],
                references=[],
            )
            feedback_record(
                interaction_id=interaction.pk,
                reward=verdict.score,
                source=Reward.Source.JUDGE,
                rater=rater_name(verdict.model, verdict.revision),
                comment=verdict.explanation,
            )
            rated += 1
        except AdaptRAGError as error:
            failed, last = failed + 1, error.message
    return {"rated": rated, "failed": failed, "last_error": last}
