"""What was learned: arms, priors and the clock of forgetting."""

from __future__ import annotations

import math

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from simple_history.models import HistoricalRecords

from agents.models import AgentVariant


class LearningClock(models.Model):
    """One row. `ticks` counts the interactions with feedback so far; it never goes back, not by a reset or a rebuild.

    epoch: the time at which a reward weighs 1 in the arms' stored weights, in the unit of the active policy's half-life."""

    ONLY = 1

    ticks = models.BigIntegerField(default=0)
    epoch = models.FloatField(default=0)

    def __str__(self) -> str:
        return f"{self.ticks} interactions with feedback"


class PriorReward(models.Model):
    """Evidence assumed before any feedback, as (pulls, total reward), for an agent in a category."""

    category = models.CharField(max_length=32)
    agent_name = models.CharField(max_length=64)
    pulls = models.FloatField(default=0, validators=[MinValueValidator(0.0)])
    total = models.FloatField(default=0, validators=[MinValueValidator(0.0)], help_text="Sum of rewards, 0 to pulls.")
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords()

    class Meta:
        verbose_name = "prior"
        ordering = ["agent_name", "category"]
        constraints = [
            models.UniqueConstraint(fields=["category", "agent_name"], name="prior_once"),
            models.CheckConstraint(
                condition=models.Q(pulls__gte=0, total__gte=0, total__lte=models.F("pulls")),
                name="prior_total_within_pulls",
                violation_error_message="The total lies between 0 and the pulls: each reward is at most 1.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.agent_name} / {self.category}: {self.total:g} of {self.pulls:g}"

    def clean(self) -> None:
        if not (math.isfinite(self.pulls) and math.isfinite(self.total)):
            raise ValidationError("pulls and total must be finite numbers.")
        if self.total > self.pulls:
            raise ValidationError({"total": f"{self.total:g} is more than the {self.pulls:g} pulls; each reward is at most 1."})


class BanditArm(models.Model):
    """(category, variant) as the bandit sees it: sums over interactions with feedback, changed by database arithmetic only.

    The weighted sums are what the router reads: each reward times its `Pull.weight`, which is 1 unless the policy forgets."""

    category = models.CharField(max_length=32)
    variant = models.ForeignKey(AgentVariant, on_delete=models.CASCADE, related_name="arms")
    pulls = models.FloatField(default=0)
    total = models.FloatField(default=0, help_text="Sum of rewards.")
    total_squares = models.FloatField(default=0, help_text="Sum of squared rewards.")
    weight = models.FloatField(default=0, help_text="Sum of the rewards' weights.")
    weighted_total = models.FloatField(default=0)
    weighted_squares = models.FloatField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["category", "variant"]
        constraints = [models.UniqueConstraint(fields=["category", "variant"], name="arm_once")]

    def __str__(self) -> str:
        return f"{self.variant} / {self.category}"


class LinearArm(models.Model):
    """What linear policies know of a variant, over all categories: weighted sums of x x' and reward x, x the question's vector.

    Kept for the active policy alone, and changed under a row lock. Arrays as base64 of little-endian doubles."""

    variant = models.OneToOneField(AgentVariant, primary_key=True, on_delete=models.CASCADE, related_name="linear_arm")
    dimensions = models.PositiveIntegerField()
    design = models.TextField(help_text="(D, D), D = dimensions + 1.")
    response = models.TextField(help_text="(D,).")
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.variant} in {self.dimensions} dimensions"
