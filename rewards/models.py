"""What happened (interactions, rewards) and what was learned from it (arms, priors, the routing policy)."""

from __future__ import annotations

import math
from collections.abc import Collection as Names
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.utils import timezone
from simple_history.models import HistoricalRecords

from adaptrag.common.ids import uuid7
from agents.models import AgentVariant, Collection
from rewards.bandit import POLICIES, Policy

UNIT = [MinValueValidator(0.0), MaxValueValidator(1.0)]


class RoutingPolicy(models.Model):
    """The rule that picks an arm, with its parameters. One row is active; each saved change raises `revision`.

    `rewards.services.policy_save` and `policy_activate` are the ways to change one: they keep the arms in step.
    """

    # What a logged (policy, revision) must pin down for a decision to be explained later.
    REVISED_BY = ("kind", "parameters", "min_share", "judges_count", "learn_since")

    class Kind(models.TextChoices):
        THOMPSON = "thompson", "Thompson sampling (Beta posteriors)"
        UCB1 = "ucb1", "UCB1"
        EPSILON_GREEDY = "epsilon_greedy", "epsilon-greedy"

    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=32, choices=Kind, default=Kind.THOMPSON)
    parameters = models.JSONField(default=dict, blank=True)
    min_share = models.FloatField(
        default=0.02,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="Smallest share of the traffic that every enabled agent keeps (exploration floor).",
    )
    judges_count = models.BooleanField(default=False, help_text="Let judges' and metrics' ratings move the arms too.")
    active = models.BooleanField(default=False, editable=False)
    revision = models.PositiveIntegerField(default=1, editable=False)
    learn_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Interactions before this moment no longer count (set by a reset)."
    )
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords()

    class Meta:
        verbose_name_plural = "routing policies"
        constraints = [models.UniqueConstraint(fields=["active"], condition=models.Q(active=True), name="policy_one_active")]

    def __str__(self) -> str:
        return f"{self.name} r{self.revision}"

    @transaction.atomic
    def save(self, *args: Any, update_fields: Names[str] | None = None, **kwargs: Any) -> None:
        stored = None if self.pk is None else RoutingPolicy.objects.select_for_update().filter(pk=self.pk).first()
        if stored:
            self.revision = stored.revision + any(getattr(self, name) != getattr(stored, name) for name in self.REVISED_BY)
            update_fields = None if update_fields is None else {*update_fields, "revision"}
        super().save(*args, update_fields=update_fields, **kwargs)

    def clean(self) -> None:
        if not math.isfinite(self.min_share):
            raise ValidationError({"min_share": f"{self.min_share} is not a share; use a number from 0 to 0.5."})
        try:
            self.rule()
        except ValueError as error:
            raise ValidationError({"parameters" if self.kind in POLICIES else "kind": str(error)}) from error

    def rule(self) -> Policy:
        """The policy itself. Raises ValueError that names the parameter at fault."""
        if self.kind not in POLICIES:
            raise ValueError(f"unknown policy {self.kind!r}; there are {', '.join(POLICIES)}.")
        if not isinstance(self.parameters, dict):
            raise ValueError(f'parameters are a JSON object such as {{"c": 1.4}}, not {self.parameters!r}.')
        return POLICIES[self.kind].from_parameters(self.parameters)


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
    """(category, variant) as the bandit sees it: sums over interactions with feedback, changed with F() only."""

    category = models.CharField(max_length=32)
    variant = models.ForeignKey(AgentVariant, on_delete=models.CASCADE, related_name="arms")
    pulls = models.FloatField(default=0)
    total = models.FloatField(default=0, help_text="Sum of rewards.")
    total_squares = models.FloatField(default=0, help_text="Sum of squared rewards.")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["category", "variant"]
        constraints = [models.UniqueConstraint(fields=["category", "variant"], name="arm_once")]

    def __str__(self) -> str:
        return f"{self.variant} / {self.category}"


class Interaction(models.Model):
    """One question, its context, its answer, how it was routed, and what it cost."""

    class Mode(models.TextChoices):
        BANDIT = "bandit"
        MANUAL = "manual_override", "forced by the caller"
        COMPARE = "compare", "side by side"
        IMPORTED = "imported"

    class State(models.TextChoices):
        ANSWERED = "answered"
        FAILED = "failed"

    # Narrow columns first: SQLite reads through what lies before a column, and passages fill pages of their own.
    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    state = models.CharField(max_length=16, choices=State, default=State.ANSWERED)
    mode = models.CharField(max_length=20, choices=Mode, default=Mode.BANDIT)
    category = models.CharField(max_length=32)
    variant = models.ForeignKey(AgentVariant, on_delete=models.PROTECT, related_name="interactions")
    top_k = models.PositiveIntegerField(default=5)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    latency_ms = models.FloatField(default=0)
    policy = models.CharField(max_length=64, blank=True)
    policy_revision = models.PositiveIntegerField(null=True, blank=True)
    propensity = models.FloatField(null=True, blank=True, help_text="Probability with which the policy picked this arm.")
    seed = models.BigIntegerField(null=True, blank=True)
    session = models.CharField(max_length=100, blank=True, db_index=True)
    collection = models.ForeignKey(Collection, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    model = models.CharField(max_length=300, blank=True, help_text="The chat model that answered.")
    fallback = models.JSONField(null=True, blank=True, help_text="{from, to, reason} when another model stepped in.")
    error = models.JSONField(null=True, blank=True, help_text="{code, message} of a failed answer.")
    question = models.TextField()
    messages = models.JSONField(default=list, blank=True, help_text="Earlier turns of the conversation.")
    answer = models.TextField(blank=True)
    candidates = models.JSONField(default=list, blank=True, help_text="Each candidate with its probability, pulls and mean.")
    sources = models.JSONField(default=list, blank=True, help_text="The passages as the agent saw them.")
    trace = models.JSONField(default=list, blank=True, help_text="Each retrieval and model call, with times.")

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            # Holds all that statistics read of an interaction, so that they need not touch its passages.
            models.Index(
                fields=["category", "variant", "created_at", "state", "mode", "latency_ms", "cost_usd"],
                name="interaction_figures",
            )
        ]

    def __str__(self) -> str:
        return self.question[:80]


class Reward(models.Model):
    """Feedback in [0, 1] on an interaction. One row per (interaction, source, rater); the latest value stands."""

    class Source(models.TextChoices):
        USER = "user"
        JUDGE = "judge"
        METRIC = "metric"

    interaction = models.ForeignKey(Interaction, on_delete=models.CASCADE, related_name="rewards")
    source = models.CharField(max_length=16, choices=Source, default=Source.USER)
    rater = models.CharField(max_length=150)
    value = models.FloatField(validators=UNIT)
    correction = models.TextField(blank=True)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["interaction", "source", "rater"], name="reward_once"),
            models.CheckConstraint(condition=models.Q(value__gte=0, value__lte=1), name="reward_in_unit_interval"),
        ]

    def __str__(self) -> str:
        return f"{self.value:g} by {self.rater}"


class Pull(models.Model):
    """What an interaction has added to its arm: one pull at most, held by the primary key.

    A changed rating subtracts exactly this. Kept apart from Interaction so that feedback, a reset and a rebuild write
    narrow rows instead of the passages and answers (docs/decisions/0006-one-pull-an-interaction.md).
    """

    interaction = models.OneToOneField(Interaction, primary_key=True, on_delete=models.CASCADE, related_name="pull")
    arm = models.ForeignKey(BanditArm, on_delete=models.CASCADE, related_name="+")
    value = models.FloatField(help_text="Mean of the ratings that count.")
    at = models.DateTimeField(db_index=True, help_text="When the question was asked.")
    policy_revision = models.PositiveIntegerField(help_text="Of the policy whose rules chose the ratings that count.")

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.value:g} for {self.arm_id}"
