"""Arms: kept in step with ratings, rebuilt from the log, reset to the priors.

An interaction has at most one Pull: the mean of its ratings that count, less what its time and cost take off. An arm is the
sum of its pulls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Case, Count, F, Sum, Value, When
from django.utils import timezone

from rewards.models import BanditArm, Interaction, LearningClock, LinearArm, Pull, Reward, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services import linear
from rewards.services.evidence import LEAST_SQUARED, Applied, EvidenceRule, clock_read
from rewards.services.rollup import Change, changes_note, sums_rebuild
from rewards.services.turn import write_turn

Progress = Callable[[float, str], Any]
ArmKey = tuple[str, int]  # (category, variant id)

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


def pulls_settle(
    rated: Iterable[tuple[Interaction, Iterable[Reward]]],
    pulls: Mapping[UUID, Pull],
    policy: RoutingPolicy,
    new_ratings: Mapping[UUID, int],
) -> dict[ArmKey, ArmFigures]:
    """Bring pulls, arms and the sums of the log in line with interactions and all of their ratings; the figures of the arms
    that moved.

    pulls: those that the interactions have so far; new_ratings: how many of their ratings were just added. The caller holds
    `evidence_lock` and the interactions' rows. Raises WeightsOutgrown, before anything is written, where the stored weights
    need a later epoch first.
    """
    rule = EvidenceRule(policy, clock_read())
    change: dict[ArmKey, list[float]] = defaultdict(lambda: [0.0] * len(_SUMS))
    steps: list[linear.Step] = []
    noted: list[Change] = []
    fresh: list[tuple[Interaction, Applied]] = []
    moved, gone = [], []
    for interaction, ratings in rated:
        pull, applied = pulls.get(interaction.pk), rule.applied(interaction, ratings)
        noted.append(_noted(interaction, new_ratings.get(interaction.pk, 0), pull, applied))
        if _figures(applied) == _figures(pull):
            continue
        key = interaction.category, interaction.variant_id
        for sign, part in ((-1, pull), (1, applied)):
            if part is not None:
                _add(change[key], part.value, part.weight, sign)
                steps.append(linear.Step(interaction.pk, interaction.variant_id, part.value, sign * part.weight))
        if pull is None:
            fresh.append((interaction, applied))
        elif applied is None:
            gone.append(pull.pk)
        else:
            for name in _APPLIED:
                setattr(pull, name, getattr(applied, name))
            pull.policy_revision = policy.revision
            moved.append(pull)
    # In one order, so that two transactions that move several arms don't wait for each other.
    arms = {key: _arm_add(key, change[key]) for key in sorted(change)}
    Pull.objects.bulk_create(
        Pull(
            pk=interaction.pk,
            arm_id=arms[interaction.category, interaction.variant_id].pk,
            at=interaction.created_at,
            policy_revision=policy.revision,
            **{name: getattr(applied, name) for name in _APPLIED},
        )
        for interaction, applied in fresh
    )
    if moved:
        Pull.objects.bulk_update(moved, [*_APPLIED, "policy_revision"])
    if gone:
        Pull.objects.filter(pk__in=gone).delete()
    if steps and policy.rule().reads_question:
        linear.arms_move(steps, policy.rule().dimensions)
    changes_note(change for change in noted if change.n or change.total or change.squares or change.ratings)
    if fresh:
        _tick(len(fresh))  # last: every feedback writes this one row, and waits for it until the other's transaction ends
    return arms


def _noted(interaction: Interaction, ratings: int, former: Pull | None, applied: Applied | None) -> Change:
    before, after = (None if one is None else one.value for one in (former, applied))
    return Change(
        at=interaction.created_at,
        category=interaction.category,
        variant_id=interaction.variant_id,
        ratings=ratings,
        n=(after is not None) - (before is not None),
        total=(after or 0.0) - (before or 0.0),
        squares=(after or 0.0) ** 2 - (before or 0.0) ** 2,
    )


_APPLIED = ("quality", "latency_penalty", "cost_penalty", "value", "weight")
_SUMS = ("pulls", "total", "total_squares", "weight", "weighted_total", "weighted_squares")


def _figures(part: Applied | Pull | None) -> tuple[float, float] | None:
    return None if part is None else (part.quality, part.value)


def _add(sums: list[float], value: float, weight: float, sign: int) -> None:
    powers = (1.0, value, value * value)
    for i, amount in enumerate((*powers, *(weight * power for power in powers))):
        sums[i] += sign * amount


# Makes the arm or adds to it, and reads it back, in one statement that no other writer can come between.
_ADD = f"""
INSERT INTO {BanditArm._meta.db_table} AS arm (category, variant_id, updated_at, {", ".join(_SUMS)})
VALUES (%s, %s, %s, {", ".join(["%s"] * len(_SUMS))})
ON CONFLICT (category, variant_id) DO UPDATE SET updated_at = excluded.updated_at,
    {", ".join(f"{name} = arm.{name} + excluded.{name}" for name in _SUMS)}
RETURNING id, pulls, total
"""  # noqa: S608 - the table's own name

_TICK = f"""
INSERT INTO {LearningClock._meta.db_table} AS clock (id, ticks, epoch) VALUES (%s, %s, 0)
ON CONFLICT (id) DO UPDATE SET ticks = clock.ticks + excluded.ticks
"""  # noqa: S608


def _arm_add(key: ArmKey, sums: list[float]) -> ArmFigures:
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [*key, now, *sums])
        pk, pulls, total = cursor.fetchone()
    return ArmFigures(pk=pk, pulls=pulls, total=total)


def _tick(count: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_TICK, [LearningClock.ONLY, count])


@write_turn()
@transaction.atomic
def arms_rebuild(progress: Progress | None = None) -> int:
    """Arms, pulls and the sums of the log from the log itself; returns the number of pulls.

    Feedback waits until it is done, so none is lost. Linear arms are added up from the questions' embeddings."""
    evidence_lock(exclusive=True)
    return rebuild(active_policy(), progress or (lambda fraction, message: None), sums=True)


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
    rebuild(policy, lambda fraction, message: None)
    return policy


def rebuild(policy: RoutingPolicy, progress: Progress, *, sums: bool = False) -> int:
    """`arms_rebuild` for a caller that holds the exclusive `evidence_lock`; unless `sums`, what the log's sums hold of traffic
    stays. The epoch moves to now where weights have outgrown
    it, or where it belongs to another unit of time."""
    progress(0.0, "counting ratings")
    clock = clock_read()
    rule = EvidenceRule(policy, clock)
    if rule.decay is not None and (rule.decay.rebase_due(rule.now()) or rule.now() < clock.epoch):
        clock.epoch = rule.now()
        clock.save()
        rule = EvidenceRule(policy, clock)
    Pull.objects.all().delete()
    BanditArm.objects.bulk_create(
        [
            BanditArm(category=category, variant_id=variant)
            for category, variant in rule.interactions().values_list("category", "variant_id").distinct()
        ],
        ignore_conflicts=True,
    )
    progress(0.2, "writing pulls")
    select, parameters = rule.in_sql().annotate(revision=Value(policy.revision)).query.sql_with_params()
    names = ("interaction", "arm", *_APPLIED, "at", "policy_revision")
    columns = ", ".join(Pull._meta.get_field(name).column for name in names)
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {Pull._meta.db_table} ({columns}) {select}", parameters)
    progress(0.5, "adding up arms")
    value, weight = Case(When(value__gte=LEAST_SQUARED, then=F("value")), default=Value(0.0)), F("weight")
    by_arm_sums = (
        Pull.objects.order_by()
        .values("arm")
        .annotate(
            s_pulls=Count("pk"),
            s_total=Sum("value"),
            s_total_squares=Sum(value * value),
            s_weight=Sum("weight"),
            s_weighted_total=Sum(weight * value),
            s_weighted_squares=Sum(weight * value * value),
        )
    )
    by_arm = {row["arm"]: row for row in by_arm_sums}
    arms = list(BanditArm.objects.order_by("pk"))
    for arm in arms:
        row = by_arm.get(arm.pk, {})
        for name in _SUMS:
            setattr(arm, name, row.get(f"s_{name}", 0.0))
        arm.updated_at = timezone.now()
    BanditArm.objects.bulk_update(arms, [*_SUMS, "updated_at"], batch_size=100)
    LinearArm.objects.all().delete()
    if policy.rule().reads_question:
        linear.arms_rebuild(policy.rule().dimensions, lambda part, message: progress(0.6 + 0.4 * part, message))
    pulls = sum(row["s_pulls"] for row in by_arm.values())
    sums_rebuild(pulls_only=not sums)
    if pulls > clock.ticks:
        _tick(pulls - clock.ticks)
    progress(1.0, f"{pulls:,} pulls in {len(by_arm)} arms")
    return pulls
