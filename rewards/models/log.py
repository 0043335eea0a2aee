"""What happened: interactions, their ratings, and what each adds to an arm."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from adaptrag.common.ids import uuid7
from agents.models import AgentVariant, Collection
from rewards.models.evidence import BanditArm
from rewards.models.validators import UNIT


class Interaction(models.Model):
    """One question, its context, its answer, how it was routed, and what it cost."""

    class Mode(models.TextChoices):
        BANDIT = "bandit"
        PINNED = "pinned", "category pinned to the agent"
        STICKY = "sticky", "kept for the session"
        EXPERIMENT = "experiment", "a fixed-split experiment"
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
    clock = models.BigIntegerField(null=True, blank=True, help_text="Interactions with feedback when the question was asked.")
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
            ),
            models.Index(fields=["-created_at"], condition=models.Q(state="failed"), name="interaction_failed"),
            # The last error of each agent, for the list of agents.
            models.Index(fields=["variant", "-created_at"], condition=models.Q(state="failed"), name="interaction_failed_of"),
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
    quality = models.FloatField(help_text="Mean of the ratings that count.")
    latency_penalty = models.FloatField(default=0, help_text="Taken off for the time that the answer took.")
    cost_penalty = models.FloatField(default=0, help_text="Taken off for what the answer cost.")
    value = models.FloatField(help_text="The reward: quality less the penalties, not below 0.")
    weight = models.FloatField(default=1, help_text="With which it was added to the arm.")
    at = models.DateTimeField(db_index=True, help_text="When the question was asked.")
    policy_revision = models.PositiveIntegerField(help_text="Of the policy whose rules chose the ratings that count.")

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.value:g} for {self.arm_id}"


class QuestionVector(models.Model):
    """A question's embedding, float32, kept where a linear policy decided or learned from it."""

    interaction = models.OneToOneField(Interaction, primary_key=True, on_delete=models.CASCADE, related_name="vector")
    embedding = models.BinaryField()

    def __str__(self) -> str:
        return str(self.interaction_id)
