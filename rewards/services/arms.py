"""Arms: kept in step with ratings, rebuilt from the log, reset to the priors.

An interaction has at most one Pull: the mean of its ratings that count. An arm is the sum of its pulls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Avg, Count, F, QuerySet, Sum, Value
from django.utils import timezone

from rewards.models import BanditArm, Interaction, Pull, Reward, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services.turn import write_turn

Progress = Callable[[float, str], Any]
ArmKey = tuple[str, int]  # (category, variant id)

# Compared answers are looked at side by side, which rates them differently from an answer that stands alone.
COUNTING_MODES = (Interaction.Mode.BANDIT, Interaction.Mode.MANUAL, Interaction.Mode.IMPORTED)
_ADVISORY_LOCK = 0x_ADA9_72A6  # any number that nothing else in the database uses


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    pk: int
    pulls: float
    total: float


def evidence_lock(*, exclusive: bool = False) -> None:
    """Hold what ratings count until the transaction ends: shared while one is recorded, exclusive while all are recounted.

    On SQLite the transaction itself excludes other writers (transaction_mode IMMEDIATE)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_xact_lock{'' if exclusive else '_shared'}(%s)", [_ADVISORY_LOCK])


def pull_value(interaction: Interaction, ratings: Iterable[Reward], policy: RoutingPolicy) -> float | None:
    """What an interaction gives its arm: the mean of its ratings that count, None for no pull; `_evidence` says it in SQL."""
    if interaction.state != Interaction.State.ANSWERED or interaction.mode not in COUNTING_MODES:
        return None
    if policy.learn_since is not None and interaction.created_at < policy.learn_since:
        return None
    values = [rating.value for rating in ratings if policy.judges_count or rating.source == Reward.Source.USER]
    return sum(values) / len(values) if values else None


def _evidence(policy: RoutingPolicy) -> QuerySet[Interaction]:
    """The interactions that give their arm a pull, once for each rating that counts."""
    sources = Reward.Source.values if policy.judges_count else [Reward.Source.USER]
    counting = Interaction.objects.filter(
        state=Interaction.State.ANSWERED, mode__in=COUNTING_MODES, rewards__source__in=sources
    ).order_by()
    return counting if policy.learn_since is None else counting.filter(created_at__gte=policy.learn_since)


def pulls_settle(
    rated: Iterable[tuple[Interaction, Iterable[Reward]]], pulls: Mapping[UUID, Pull], policy: RoutingPolicy
) -> dict[ArmKey, ArmFigures]:
    """Bring pulls and arms in line with interactions and all of their ratings; the figures of the arms that moved.

    pulls: those that the interactions have so far. The caller holds `evidence_lock` and the interactions' rows.
    """
    change: dict[ArmKey, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    fresh: list[tuple[Interaction, float]] = []
    moved, gone = [], []
    for interaction, ratings in rated:
        pull, value = pulls.get(interaction.pk), pull_value(interaction, ratings, policy)
        if value == (None if pull is None else pull.value):
            continue
        key = interaction.category, interaction.variant_id
        if pull is not None:
            _add(change[key], pull.value, -1)
        if value is not None:
            _add(change[key], value, 1)
        if pull is None:
            fresh.append((interaction, value))
        elif value is None:
            gone.append(pull.pk)
        else:
            pull.value, pull.policy_revision = value, policy.revision
            moved.append(pull)
    # In one order, so that two transactions that move several arms don't wait for each other.
    arms = {key: _arm_add(key, *change[key]) for key in sorted(change)}
    Pull.objects.bulk_create(
        Pull(
            pk=interaction.pk,
            arm_id=arms[interaction.category, interaction.variant_id].pk,
            value=value,
            at=interaction.created_at,
            policy_revision=policy.revision,
        )
        for interaction, value in fresh
    )
    if moved:
        Pull.objects.bulk_update(moved, ["value", "policy_revision"])
    if gone:
        Pull.objects.filter(pk__in=gone).delete()
    return arms


def _add(sums: list[float], value: float, sign: int) -> None:
    for i, power in enumerate((1.0, value, value * value)):
        sums[i] += sign * power


# Makes the arm or adds to it, and reads it back, in one statement that no other writer can come between.
_ADD = f"""
INSERT INTO {BanditArm._meta.db_table} AS arm (category, variant_id, pulls, total, total_squares, updated_at)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (category, variant_id) DO UPDATE SET
    pulls = arm.pulls + excluded.pulls, total = arm.total + excluded.total,
    total_squares = arm.total_squares + excluded.total_squares, updated_at = excluded.updated_at
RETURNING id, pulls, total
"""  # noqa: S608 - the table's own name


def _arm_add(key: ArmKey, pulls: float, total: float, squares: float) -> ArmFigures:
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [*key, pulls, total, squares, now])
        pk, pulls, total = cursor.fetchone()
    return ArmFigures(pk=pk, pulls=pulls, total=total)


@write_turn()
@transaction.atomic
def arms_rebuild(progress: Progress | None = None) -> int:
    """Arms and pulls from the log, by statements that run inside the database; returns the number of pulls.

    Feedback waits until it is done, so none is lost."""
    evidence_lock(exclusive=True)
    return _rebuild(active_policy(), progress or (lambda fraction, message: None))


@write_turn()
@transaction.atomic
def learning_reset(user: Any = None) -> RoutingPolicy:
    """Back to the priors: what was asked before this moment no longer counts. The log stays; the history says who and when."""
    evidence_lock(exclusive=True)
    policy = RoutingPolicy.objects.select_for_update().get(pk=active_policy().pk)
    policy.learn_since = timezone.now()
    policy._history_user = user
    policy._change_reason = "learning reset"
    policy.save()
    _rebuild(policy, lambda fraction, message: None)
    return policy


def _rebuild(policy: RoutingPolicy, progress: Progress) -> int:
    progress(0.0, "counting ratings")
    Pull.objects.all().delete()
    evidence = _evidence(policy)
    BanditArm.objects.bulk_create(
        [
            BanditArm(category=category, variant_id=variant)
            for category, variant in evidence.values_list("category", "variant_id").distinct()
        ],
        ignore_conflicts=True,
    )
    progress(0.2, "writing pulls")
    rows = (
        evidence.filter(variant__arms__category=F("category"))
        .values("pk", "variant__arms__pk", "created_at")
        .annotate(value=Avg("rewards__value"))
        .values_list("pk", "variant__arms__pk", "value", "created_at", Value(policy.revision))
    )
    select, parameters = rows.query.sql_with_params()
    columns = ", ".join(Pull._meta.get_field(name).column for name in ("interaction", "arm", "value", "at", "policy_revision"))
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {Pull._meta.db_table} ({columns}) {select}", parameters)
    progress(0.8, "adding up arms")
    sums = (
        Pull.objects.order_by().values("arm").annotate(n=Count("pk"), total=Sum("value"), squares=Sum(F("value") * F("value")))
    )
    by_arm = {row["arm"]: row for row in sums}
    arms = list(BanditArm.objects.order_by("pk"))
    for arm in arms:
        row = by_arm.get(arm.pk, {"n": 0, "total": 0.0, "squares": 0.0})
        arm.pulls, arm.total, arm.total_squares, arm.updated_at = row["n"], row["total"], row["squares"], timezone.now()
    BanditArm.objects.bulk_update(arms, ["pulls", "total", "total_squares", "updated_at"], batch_size=500)
    pulls = sum(row["n"] for row in by_arm.values())
    progress(1.0, f"{pulls:,} pulls in {len(by_arm)} arms")
    return pulls
