"""Policies and priors: what operators change by hand."""

from __future__ import annotations

from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import models, transaction

from adaptrag.common.errors import InvalidInput
from rewards.models import PriorReward, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services.arms import arms_rebuild, evidence_lock
from rewards.services.turn import write_turn

Row = TypeVar("Row", bound=models.Model)


@write_turn()
@transaction.atomic
def policy_save(policy: RoutingPolicy, user: Any = None) -> RoutingPolicy:
    """Save a new or changed policy. Raises InvalidInput that names the parameter at fault.

    Where the active policy changes which ratings count, the arms are recounted in the same transaction.
    """
    evidence_lock(exclusive=True)
    stored = RoutingPolicy.objects.filter(pk=policy.pk).first()
    if stored:
        # These two have functions of their own; a form that was opened earlier must not turn them back.
        policy.active, policy.learn_since = stored.active, stored.learn_since
    _save(policy, user)
    if stored and stored.active and stored.judges_count != policy.judges_count:
        arms_rebuild()
    return policy


@write_turn()
@transaction.atomic
def policy_activate(policy: RoutingPolicy, user: Any = None) -> RoutingPolicy:
    """Let this policy route from now on, with the evidence that the one before it had: a reset stays a reset."""
    evidence_lock(exclusive=True)
    former = active_policy()
    policy.refresh_from_db()
    if former.pk == policy.pk:
        return policy
    former.active = False
    _save(former, user)
    policy.active, policy.learn_since = True, former.learn_since
    _save(policy, user)
    if former.judges_count != policy.judges_count:
        arms_rebuild()
    return policy


@transaction.atomic
def prior_set(*, category: str, agent_name: str, pulls: float, total: float, user: Any = None) -> PriorReward:
    """Set what is assumed of an agent in a category before any feedback; the next decision uses it."""
    prior = PriorReward.objects.select_for_update().filter(category=category, agent_name=agent_name).first()
    prior = prior or PriorReward(category=category, agent_name=agent_name)
    prior.pulls, prior.total = pulls, total
    return _save(prior, user)


def _save(row: Row, user: Any) -> Row:
    try:
        row.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0] if field == "__all__" else f"{field}: {messages[0]}", field=field) from error
    row._history_user = user
    row.save()
    return row
