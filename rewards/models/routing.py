"""Who is asked: the rule that picks an arm, and the bounds that operators set it."""

from __future__ import annotations

import math
from collections.abc import Collection as Names
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from simple_history.models import HistoricalRecords

from rewards.bandit import POLICIES, Policy
from rewards.models.validators import UNIT


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
