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
    REVISED_BY = (
        *("kind", "parameters", "min_share", "sticky_sessions"),
        *("judges_count", "latency_weight", "cost_weight", "learn_since"),
    )

    class Kind(models.TextChoices):
        HIERARCHICAL = "hierarchical_thompson", "Hierarchical Thompson sampling: categories learn from each other"
        THOMPSON = "thompson", "Thompson sampling, each category by itself"
        LINTS = "lints", "Linear Thompson sampling on the question's embedding"
        UCB1 = "ucb1", "UCB1"
        EPSILON_GREEDY = "epsilon_greedy", "epsilon-greedy"
        DISCOUNTED_HIERARCHICAL = "discounted_hierarchical_thompson", "Hierarchical Thompson sampling that forgets"
        DISCOUNTED_THOMPSON = "discounted_thompson", "Thompson sampling that forgets"
        DISCOUNTED_LINTS = "discounted_lints", "Linear Thompson sampling that forgets"
        DISCOUNTED_UCB1 = "discounted_ucb1", "UCB1 that forgets"
        DISCOUNTED_EPSILON_GREEDY = "discounted_epsilon_greedy", "epsilon-greedy that forgets"

    name = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=40, choices=Kind, default=Kind.HIERARCHICAL)
    parameters = models.JSONField(default=dict, blank=True)
    min_share = models.FloatField(
        default=0.02,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="Smallest share of the traffic that every enabled agent keeps (exploration floor).",
    )
    sticky_sessions = models.BooleanField(
        default=False, help_text="Keep a session with the agent that the policy drew for its first question."
    )
    judges_count = models.BooleanField(default=False, help_text="Let judges' and metrics' ratings move the arms too.")
    latency_weight = models.FloatField(
        default=0, validators=UNIT, help_text="Reward taken off for each second that an answer took, 0 to 1."
    )
    cost_weight = models.FloatField(
        default=0,
        validators=[MinValueValidator(0.0), MaxValueValidator(1000.0)],
        help_text="Reward taken off for each US dollar that an answer cost; 10 takes 0.1 off for a cent.",
    )
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
        for name in ("latency_weight", "cost_weight"):
            if not math.isfinite(getattr(self, name)):
                raise ValidationError({name: f"{getattr(self, name)} is not a number; use 0 for no such deduction."})
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

    def evidence_rule(self) -> tuple[Any, ...]:
        """What decides how ratings become evidence. Two policies that agree on it can share the arms."""
        rule = self.rule()
        decay = None if rule.half_life is None else (rule.half_life, rule.unit)
        dimensions = rule.dimensions if rule.reads_question else None
        return self.judges_count, self.latency_weight, self.cost_weight, decay, dimensions


class AgentLimit(models.Model):
    """An operator's bounds on an agent's share of the routed traffic, in every category. Empty: the policy's floor, no cap."""

    agent_name = models.CharField("agent", max_length=64, unique=True)
    min_share = models.FloatField("least share", null=True, blank=True, validators=UNIT)
    max_share = models.FloatField("largest share", null=True, blank=True, validators=UNIT)
    paused = models.BooleanField(default=False, help_text="Gets no routed question; a caller can still name it.")
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords()

    class Meta:
        verbose_name = "traffic limit"
        ordering = ["agent_name"]

    def __str__(self) -> str:
        if self.paused:
            return f"{self.agent_name}: paused"
        low = "" if self.min_share is None else f" at least {100 * self.min_share:g} %"
        high = "" if self.max_share is None else f" at most {100 * self.max_share:g} %"
        return f"{self.agent_name}:{low}{high}" if low or high else f"{self.agent_name}: no limits"

    def clean(self) -> None:
        for name in ("min_share", "max_share"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValidationError({name: f"{value} is not a share; use a number from 0 to 1."})
        if self.min_share is not None and self.max_share is not None and self.min_share > self.max_share:
            raise ValidationError({"min_share": f"{self.min_share:g} is more than the largest share, {self.max_share:g}."})


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


class CategoryPin(models.Model):
    """A category whose questions all go to one agent, whatever the policy thinks."""

    category = models.CharField(max_length=32, unique=True)
    agent_name = models.CharField("agent", max_length=64)
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords()

    class Meta:
        verbose_name = "pinned category"
        verbose_name_plural = "pinned categories"
        ordering = ["category"]

    def __str__(self) -> str:
        return f"{self.category} -> {self.agent_name}"


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


class LogSums(models.Model):
    """What the log adds up to in an hour, a day or a month of UTC, for a category and a variant (rewards.rollup.sums.Sums).

    Written by rewards.services.rollup alone. LogChange holds what is not in it yet.
    """

    span = models.CharField(max_length=1, choices=[("h", "hour"), ("d", "day"), ("m", "month")])
    start = models.DateTimeField()
    category = models.CharField(max_length=32)
    variant = models.ForeignKey(AgentVariant, on_delete=models.CASCADE, related_name="+")
    interactions = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    ratings = models.BigIntegerField(default=0)
    n = models.BigIntegerField(default=0, help_text="Rated answers that count.")
    total = models.FloatField(default=0)
    squares = models.FloatField(default=0)
    latency = models.TextField(default="{}", help_text="JSON: {bin: answers}.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["span", "start", "category", "variant"], name="log_sums_once")]

    def __str__(self) -> str:
        return f"{self.span} {self.start:%Y-%m-%d %H}, {self.category}, variant {self.variant_id}"


class LogChange(models.Model):
    """A change of the log that LogSums does not hold yet, written in the transaction that made it."""

    at = models.DateTimeField(help_text="When the question was asked.")
    category = models.CharField(max_length=32)
    variant = models.ForeignKey(
        AgentVariant, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    interactions = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    ratings = models.IntegerField(default=0)
    n = models.IntegerField(default=0)
    total = models.FloatField(default=0)
    squares = models.FloatField(default=0)
    bin = models.IntegerField(null=True, help_text="Of the latency, where there is an answer.")

    def __str__(self) -> str:
        return f"{self.at}, {self.category}, variant {self.variant_id}"
