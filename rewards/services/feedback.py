"""Feedback: one reward per (interaction, source, rater), and its effect on the arm, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from adaptrag.common.errors import InvalidInput
from agents.models import AgentVariant
from rewards.errors import InvalidReward, NotRatable, UnknownInteraction
from rewards.models import BanditArm, Interaction, Pull, Reward
from rewards.selectors import active_policy
from rewards.services.arms import ArmFigures, ArmKey, arms_rebuild, evidence_lock, pulls_settle
from rewards.services.evidence import WeightsOutgrown
from rewards.services.promotions import canary_looked_after
from rewards.services.turn import write_turn

RATER_MAX = Reward._meta.get_field("rater").max_length
# A correction is the whole answer as it should have been; ten times the longest default answer, a few pages.
CORRECTION_MAX = 20_000
COMMENT_MAX = 5_000


@dataclass(frozen=True, kw_only=True)
class FeedbackResult:
    """outcome: created, unchanged or replaced. arm: {agent, revision, category, pulls, mean, total} of the arm that the
    interaction counts for, None where it counts for none."""

    outcome: str
    reward: Reward
    arm: dict[str, Any] | None


def feedback_record(
    *,
    interaction_id: UUID | str,
    reward: float,
    rater: str,
    source: str = Reward.Source.USER,
    correction: str = "",
    comment: str = "",
) -> FeedbackResult:
    """Record a rating in [0, 1]; the same again changes nothing, another value replaces it and corrects the arm.

    An empty correction or comment leaves the one given before. Raises UnknownInteraction, InvalidReward, InvalidInput,
    NotRatable. Exact under any number of concurrent writers.
    """
    pk = _identifier(interaction_id)
    value = reward_checked(reward)
    if source not in Reward.Source.values:
        raise InvalidInput(f"Unknown source {source!r}; there are {', '.join(Reward.Source.values)}.", field="source")
    rater = text_checked("rater", rater, RATER_MAX).strip()
    if not rater:
        raise InvalidInput("The rater is empty. Name who gives the feedback.", field="rater")
    correction = text_checked("correction", correction, CORRECTION_MAX)
    comment = text_checked("comment", comment, COMMENT_MAX)
    rating = (source, rater, value, correction, comment)
    try:
        result, variant = _recorded(pk, *rating)
    except WeightsOutgrown:
        arms_rebuild()  # moves the epoch
        result, variant = _recorded(pk, *rating)
    if variant.state == AgentVariant.State.CANARY and result.outcome != "unchanged":
        canary_looked_after(variant, traffic=False)
    return result


def _recorded(
    pk: UUID, source: str, rater: str, value: float, correction: str, comment: str
) -> tuple[FeedbackResult, AgentVariant]:
    with write_turn(), transaction.atomic():
        evidence_lock()
        interaction = _locked(pk)
        ratable_checked(interaction)
        ratings = list(Reward.objects.filter(interaction_id=pk).order_by())
        # Read after the lock is held: PostgreSQL joins the locking statement's other tables as they were before it waited.
        pull = Pull.objects.filter(pk=pk).order_by().first() if ratings else None
        outcome, row = _stored(ratings, interaction, source, rater, value, correction, comment)
        moved = {}
        if outcome != "unchanged":
            pulls = {} if pull is None else {pk: pull}
            fresh = {pk: 1} if outcome == "created" else {}
            moved = pulls_settle([(interaction, ratings)], pulls, active_policy(), fresh)
        return FeedbackResult(outcome=outcome, reward=row, arm=_arm(interaction, pull, moved)), interaction.variant


def reward_checked(value: Any) -> float:
    """The value as a float in [0, 1], or InvalidReward."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        shown = repr(value) if len(repr(value)) <= 50 else f"{repr(value)[:50]}..."
        raise InvalidReward(f"A reward is a number from 0 (bad) to 1 (good), not {shown}.", field="reward")
    return float(value)


def text_checked(field: str, value: Any, longest: int) -> str:
    """The text, or InvalidInput where it is none, too long, or holds what no database stores."""
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be text, not {type(value).__name__}.", field=field)
    if len(value) > longest:
        raise InvalidInput(f"{field} has {len(value):,} characters; at most {longest:,} are taken.", field=field)
    if "\x00" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise InvalidInput(f"{field} holds a NUL or a lone surrogate, which is not valid text. Send UTF-8.", field=field)
    return value


def ratable_checked(interaction: Interaction) -> None:
    """Raises NotRatable where there is no answer to rate."""
    if interaction.state == Interaction.State.FAILED:
        reason = (interaction.error or {}).get("message", "the agent failed")
        raise NotRatable(
            f"Interaction {interaction.pk} has no answer to rate: {reason} Rate an answer that was given.",
            interaction_id=str(interaction.pk),
        )


def _identifier(value: UUID | str) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise UnknownInteraction(
            f"There is no interaction {str(value)[:60]!r}. Use the interaction_id of an answer.", interaction_id=str(value)[:60]
        ) from None


def _locked(pk: UUID) -> Interaction:
    """The interaction with its agent; nobody else rates it until the transaction ends."""
    rows = Interaction.objects.select_for_update(no_key=True, of=("self",)).select_related("variant").order_by()
    columns = ("state", "error", "mode", "category", "created_at", "latency_ms", "cost_usd", "clock")
    columns += ("variant__name", "variant__revision", "variant__state")
    interaction = rows.only(*columns).filter(pk=pk).first()
    if interaction is None:
        raise UnknownInteraction(f"There is no interaction {pk}. Use the interaction_id of an answer.", interaction_id=str(pk))
    return interaction


def _stored(
    ratings: list[Reward], interaction: Interaction, source: str, rater: str, value: float, correction: str, comment: str
) -> tuple[str, Reward]:
    """The outcome and the row; `ratings`, all of the interaction's, is brought up to date."""
    row = next((row for row in ratings if (row.source, row.rater) == (source, rater)), None)
    if row is None:
        row = Reward(interaction=interaction, source=source, rater=rater, value=value, correction=correction, comment=comment)
        row.save(force_insert=True)
        ratings.append(row)
        return "created", row
    wanted = (value, correction or row.correction, comment or row.comment)
    if (row.value, row.correction, row.comment) == wanted:
        return "unchanged", row
    row.value, row.correction, row.comment = wanted
    row.updated_at = timezone.now()
    row.save(update_fields=["value", "correction", "comment", "updated_at"])
    return "replaced", row


def _arm(interaction: Interaction, pull: Pull | None, moved: dict[ArmKey, ArmFigures]) -> dict[str, Any] | None:
    figures = moved.get((interaction.category, interaction.variant_id))
    if figures is None:
        if pull is None:
            return None
        figures = BanditArm.objects.only("pulls", "total").get(pk=pull.arm_id)
    return {
        "agent": interaction.variant.name,
        "revision": interaction.variant.revision,
        "category": interaction.category,
        "pulls": round(figures.pulls, 9),
        "mean": round(figures.total / figures.pulls, 9) if figures.pulls else None,
        "total": round(figures.total, 9),
    }
