"""What an interaction's ratings become: quality, less latency and cost, with the weight of the time when it was asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.db.models import Avg, F, FloatField, Func, QuerySet, Value
from django.db.models.functions import Cast, Greatest, Power
from django.utils import timezone

from rewards.bandit import ForwardDecay
from rewards.models import Interaction, LearningClock, Reward, RoutingPolicy

# Compared answers are looked at side by side, which rates them differently from an answer that stands alone.
COUNTING_MODES = (
    Interaction.Mode.BANDIT,
    Interaction.Mode.PINNED,
    Interaction.Mode.STICKY,
    Interaction.Mode.EXPERIMENT,
    Interaction.Mode.MANUAL,
    Interaction.Mode.IMPORTED,
)
SECONDS_A_DAY = 86400.0
# PostgreSQL refuses numbers that underflow.
OLDEST = -500.0  # half-lives before the epoch at which weights stop to fall
LEAST_SQUARED = 1e-50  # a reward below it counts as 0 where the database adds up products


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What an interaction adds to its arm."""

    quality: float
    latency_penalty: float
    cost_penalty: float
    weight: float

    @property
    def value(self) -> float:
        return max(self.quality - self.latency_penalty - self.cost_penalty, 0.0)


class WeightsOutgrown(Exception):
    """A reward is so much newer than the epoch that its weight would not fit; `arms_rebuild` moves the epoch."""


class _Days(Func):
    """A moment as days since 1970, to the millisecond."""

    output_field = FloatField()

    def as_sql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return super().as_sql(compiler, connection, template="(julianday(%(expressions)s) - 2440587.5)", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = f"(EXTRACT(EPOCH FROM %(expressions)s)::double precision / {SECONDS_A_DAY})"
        return super().as_sql(compiler, connection, template=template, **context)


def days(moment: datetime) -> float:
    return moment.timestamp() / SECONDS_A_DAY


def clock_read() -> LearningClock:
    return LearningClock.objects.filter(pk=LearningClock.ONLY).first() or LearningClock(pk=LearningClock.ONLY)


@dataclass(frozen=True)
class EvidenceRule:
    """The active policy's rule for turning ratings into evidence, for one interaction and, in SQL, for all of them."""

    policy: RoutingPolicy
    clock: LearningClock

    @cached_property
    def decay(self) -> ForwardDecay | None:
        rule = self.policy.rule()
        return None if rule.half_life is None else ForwardDecay(half_life=rule.half_life, epoch=self.clock.epoch)

    @cached_property
    def in_days(self) -> bool:
        return self.decay is not None and self.policy.rule().unit == "days"

    def now(self) -> float:
        return days(timezone.now()) if self.in_days else float(self.clock.ticks)

    def time(self, interaction: Interaction) -> float:
        return days(interaction.created_at) if self.in_days else float(interaction.clock or 0)

    def applied(self, interaction: Interaction, ratings: Iterable[Reward]) -> Applied | None:
        """None where it gives no pull; `in_sql` says the same of all interactions. Raises WeightsOutgrown."""
        policy = self.policy
        if interaction.state != Interaction.State.ANSWERED or interaction.mode not in COUNTING_MODES:
            return None
        if policy.learn_since is not None and interaction.created_at < policy.learn_since:
            return None
        values = [rating.value for rating in ratings if policy.judges_count or rating.source == Reward.Source.USER]
        if not values:
            return None
        weight = 1.0
        if self.decay is not None:
            time = self.time(interaction)
            if self.decay.rebase_due(time):
                raise WeightsOutgrown
            weight = 2.0 ** max((time - self.decay.epoch) / self.decay.half_life, OLDEST)
        return Applied(
            quality=sum(values) / len(values),
            latency_penalty=max(policy.latency_weight * interaction.latency_ms / 1000, 0.0),
            cost_penalty=max(policy.cost_weight * interaction.cost_usd, 0.0),
            weight=weight,
        )

    def interactions(self) -> QuerySet[Interaction]:
        """The interactions that give their arm a pull, once for each rating that counts."""
        policy = self.policy
        sources = Reward.Source.values if policy.judges_count else [Reward.Source.USER]
        counting = Interaction.objects.filter(
            state=Interaction.State.ANSWERED, mode__in=COUNTING_MODES, rewards__source__in=sources
        ).order_by()
        return counting if policy.learn_since is None else counting.filter(created_at__gte=policy.learn_since)

    def in_sql(self) -> QuerySet:
        """Every pull: (interaction, arm, quality, latency_penalty, cost_penalty, value, weight, at)."""
        policy = self.policy
        weight: Any = Value(1.0, output_field=FloatField())
        if self.decay is not None:
            time = _Days(F("created_at")) if self.in_days else Cast(F("clock"), FloatField())
            age = (time - Value(self.decay.epoch)) / Value(self.decay.half_life)
            weight = Power(Value(2.0), Greatest(age, Value(OLDEST), output_field=FloatField()), output_field=FloatField())
        nothing = Value(0.0)
        return (
            self.interactions()
            .filter(variant__arms__category=F("category"))
            .values("pk", "variant__arms__pk", "created_at", "latency_ms", "cost_usd", "clock")
            .annotate(
                quality=Avg("rewards__value"),
                latency=Greatest(F("latency_ms") * Value(policy.latency_weight / 1000), nothing),
                cost=Greatest(F("cost_usd") * Value(policy.cost_weight), nothing),
            )
            .annotate(value=Greatest(F("quality") - F("latency") - F("cost"), nothing), w=weight)
            .values_list("pk", "variant__arms__pk", "quality", "latency", "cost", "value", "w", "created_at")
        )
