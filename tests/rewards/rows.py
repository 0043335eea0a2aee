"""Rows that tests of routing and feedback start from."""

from __future__ import annotations

from typing import Any

from agents.models import AgentVariant
from rewards.models import BanditArm, Interaction
from rewards.promotion import Evidence
from rewards.services import feedback_record, interaction_log

GOOD = Evidence(candidate="tuned", incumbent="alpha", n=80, difference=0.2, low=0.1, high=0.3)


def variant(name: str = "alpha", **fields: Any) -> AgentVariant:
    return AgentVariant.objects.create(name=name, **{"strategy": "naive_rag", **fields})


def interaction(agent: AgentVariant, **fields: Any) -> Interaction:
    return interaction_log(**{"variant": agent, "question": "Why?", "category": "factual", "answer": "Because.", **fields})


def rate(asked: Interaction, reward: float, rater: str = "ann", **fields: Any) -> Any:
    return feedback_record(interaction_id=asked.pk, reward=reward, rater=rater, **fields)


def rated(agent: AgentVariant, reward: float, **fields: Any) -> Interaction:
    asked = interaction(agent, **fields)
    rate(asked, reward)
    return asked


def figures() -> dict[tuple[str, int], tuple[float, float, float]]:
    """(category, variant id) -> (pulls, total, total of squares), arms without a pull left out."""
    arms = BanditArm.objects.filter(pulls__gt=0)
    return {(arm.category, arm.variant_id): (arm.pulls, round(arm.total, 9), round(arm.total_squares, 9)) for arm in arms}


def state(row):
    return AgentVariant.objects.get(pk=row.pk).state


def fresh(row):
    return AgentVariant.objects.select_related("predecessor").get(pk=row.pk)


def told(row):
    return [(one.verdict, one.from_state, one.to_state, one.decided_by) for one in fresh(row).decisions.order_by("id")]
