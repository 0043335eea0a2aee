"""A variant's life: the canary that is tried, and every step with its figures."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from agents.models import AgentVariant
from rewards.models.validators import UNIT


class Canary(models.Model):
    """A variant that is tried on a part of the traffic: its bounds, and who gets what its cap leaves over.

    There is one exactly while the variant's state is canary (rewards.signals)."""

    variant = models.OneToOneField(AgentVariant, primary_key=True, on_delete=models.CASCADE, related_name="canary")
    incumbent = models.ForeignKey(AgentVariant, null=True, on_delete=models.SET_NULL, related_name="+")
    min_share = models.FloatField(validators=UNIT, help_text="It gets at least that, so that it can be judged.")
    max_share = models.FloatField(validators=UNIT)
    paused = models.BooleanField(default=False, help_text="The guard stopped it; a person decides.")
    started_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.variant}: {'paused' if self.paused else f'at most {self.max_share:.0%}'}"


class AppendOnly(models.QuerySet):
    """Rows that are written once."""

    def update(self, **values: Any) -> int:
        raise TypeError(f"{self.model._meta.verbose_name_plural} are never changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError(f"{self.model._meta.verbose_name_plural} are never deleted.")


class PromotionDecision(models.Model):
    """One step of a variant's life, or why it took none. Written once; rewards.services.promotions is who writes."""

    class Verdict(models.TextChoices):
        PROMOTED = "promoted"
        REJECTED = "rejected"
        NEEDS_HUMAN = "needs_human", "needs a person"
        WAITS = "waits", "waits for a click"
        GREW = "grew", "largest share grew"
        PAUSED = "paused", "paused by the guard"
        ROLLED_BACK = "rolled_back", "rolled back"
        RESTORED = "restored"
        RETIRED = "retired"
        MOVED = "moved", "set by hand"

    variant = models.ForeignKey(AgentVariant, on_delete=models.PROTECT, related_name="decisions")
    at = models.DateTimeField(default=timezone.now, db_index=True)
    from_state = models.CharField(max_length=16, choices=AgentVariant.State)
    to_state = models.CharField(max_length=16, choices=AgentVariant.State, help_text="Of what waits: where a click leads.")
    verdict = models.CharField(max_length=16, choices=Verdict)
    override = models.BooleanField(default=False, help_text="A person set the gate or the thresholds aside.")
    reason = models.TextField()
    figures = models.JSONField(default=dict, blank=True)
    rollback_to = models.ForeignKey(
        AgentVariant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Who answers instead.",
    )
    decided_by = models.CharField(max_length=150, help_text="A user's name, or the rule: gate, canary, guard, program.")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    objects = AppendOnly.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        step = f" ({self.from_state} to {self.to_state})" if self.from_state != self.to_state else ""
        return f"{self.variant} {self.get_verdict_display()}{step}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("A decision is never changed; the next one is another row.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("A decision is never deleted.")

    @property
    def who(self) -> str:
        """Who or what decided; of a rule also who had it asked."""
        asked = self.user.get_username() if self.user else self.decided_by
        return self.decided_by if asked == self.decided_by else f"{self.decided_by}, asked by {asked}"
