"""Whichever way a variant's state changes, its canary's bounds and the history of decisions follow in the same transaction.
A change by hand of which agents answer is taken back where the limits on traffic don't fit it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from agents.events import answering_changed
from agents.models import AgentVariant
from rewards.models import Canary, PromotionDecision
from rewards.services.policies import limits_kept
from rewards.services.promotions import PROGRAM
from rewards.services.standing import incumbent_of


@receiver(answering_changed, sender=AgentVariant)
def limits_followed(sender: type[AgentVariant], **_: Any) -> None:
    limits_kept()


@receiver(pre_save, sender=AgentVariant)
def state_remembered(sender: type[AgentVariant], instance: AgentVariant, raw: bool, **_: Any) -> None:
    if raw:
        return  # rows of another database, whose decisions and canaries come along
    stored = AgentVariant.objects.filter(pk=instance.pk).values_list("state", flat=True).first() if instance.pk else None
    instance.state_before = stored


@receiver(post_save, sender=AgentVariant)
def state_followed(sender: type[AgentVariant], instance: AgentVariant, raw: bool, **_: Any) -> None:
    if raw:
        return
    before, now = instance.__dict__.pop("state_before", None), instance.state
    decided = instance.__dict__.pop("move_decided", False)
    if before == now:
        return
    if now == AgentVariant.State.CANARY:
        share = settings.ADAPTRAG_CANARY_SHARE
        Canary.objects.get_or_create(
            pk=instance.pk, defaults={"min_share": share, "max_share": share, "incumbent": incumbent_of(instance)}
        )
    elif before == AgentVariant.State.CANARY:
        Canary.objects.filter(pk=instance.pk).delete()
    predecessor = instance.predecessor
    edited = before is None and now == AgentVariant.State.ACTIVE and predecessor and predecessor.name == instance.name
    if edited or (before is not None and not decided):
        user = getattr(instance, "_history_user", None)
        PromotionDecision.objects.create(
            variant=instance,
            from_state=before or now,
            to_state=now,
            verdict=PromotionDecision.Verdict.MOVED,
            reason=f"An edit of {predecessor} that answers at once."
            if edited
            else "Its state was set directly, without a gate.",
            rollback_to=predecessor if edited else None,
            decided_by=PROGRAM if user is None else user.get_username(),
            user=user,
        )
