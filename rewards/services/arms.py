"""Arms: kept in step with ratings, rebuilt from the log, reset to the priors.

An interaction has at most one Pull: the mean of its ratings that count. An arm is the sum of its pulls. Which ratings count
is said once, in `evidence`, for feedback, import and rebuild alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Avg, Count, F, QuerySet, Sum, Value
from django.utils import timezone

from rewards.models import BanditArm, Interaction, Pull, Reward, RoutingPolicy
from rewards.selectors import active_policy

Progress = Callable[[float, str], Any]

# Compared answers are looked at side by side, which rates them differently from an answer that stands alone.
COUNTING_MODES = (Interaction.Mode.BANDIT, Interaction.Mode.MANUAL, Interaction.Mode.IMPORTED)
_ADVISORY_LOCK = 0x_ADA9_72A6  # any number that nothing else in the database uses


def evidence_lock(*, exclusive: bool = False) -> None:
    """Hold what ratings count, until the transaction ends: shared while one is recorded, exclusive while all are recounted.

    On SQLite the transaction itself excludes other writers (transaction_mode IMMEDIATE)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_xact_lock{'' if exclusive else '_shared'}(%s)", [_ADVISORY_LOCK])


def evidence(policy: RoutingPolicy) -> QuerySet[Interaction]:
    """The interactions that give their arm a pull, once for each rating that counts."""
    sources = Reward.Source.values if policy.judges_count else [Reward.Source.USER]
    counting = Interaction.objects.filter(
        state=Interaction.State.ANSWERED, mode__in=COUNTING_MODES, rewards__source__in=sources
    ).order_by()
    if policy.learn_since is not None:
        counting = counting.filter(created_at__gte=policy.learn_since)
    return counting


def pulls_settle(ids: Sequence[UUID], policy: RoutingPolicy) -> None:
    """Bring pulls and arms in line with the ratings of these interactions. The caller holds `evidence_lock` and their rows."""
    due = {
        row["pk"]: row
        for row in evidence(policy)
        .filter(pk__in=ids)
        .values("pk", "category", "variant_id", "created_at")
        .annotate(value=Avg("rewards__value"))
    }
    applied = {pull.pk: pull for pull in Pull.objects.filter(pk__in=ids)}
    arms = _arms({(row["category"], row["variant_id"]) for row in due.values()})
    change: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    fresh, moved, gone = [], [], []
    for pk, row in due.items():
        arm, pull = arms[row["category"], row["variant_id"]], applied.get(pk)
        if pull is None:
            pull = Pull(pk=pk, at=row["created_at"])
            fresh.append(pull)
        elif (pull.arm_id, pull.value) == (arm, row["value"]):
            continue
        else:
            _add(change[pull.arm_id], pull.value, -1)
            moved.append(pull)
        pull.arm_id, pull.value, pull.policy_revision = arm, row["value"], policy.revision
        _add(change[arm], pull.value, 1)
    for pk in applied.keys() - due.keys():
        _add(change[applied[pk].arm_id], applied[pk].value, -1)
        gone.append(pk)
    Pull.objects.bulk_create(fresh)
    Pull.objects.bulk_update(moved, ["arm", "value", "policy_revision"])
    Pull.objects.filter(pk__in=gone).delete()
    for arm, (pulls, total, squares) in sorted(change.items()):
        BanditArm.objects.filter(pk=arm).update(
            pulls=F("pulls") + pulls,
            total=F("total") + total,
            total_squares=F("total_squares") + squares,
            updated_at=timezone.now(),
        )


@transaction.atomic
def arms_rebuild(progress: Progress | None = None) -> int:
    """Arms and pulls from the log, by statements that run inside the database; returns the number of pulls.

    Feedback waits until it is done, so none is lost."""
    evidence_lock(exclusive=True)
    return _rebuild(active_policy(), progress or (lambda fraction, message: None))


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
    counting = evidence(policy)
    _arms(set(counting.values_list("category", "variant_id").distinct()))
    progress(0.2, "writing pulls")
    rows = (
        counting.filter(variant__arms__category=F("category"))
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
    sums = {row["arm"]: row for row in sums}
    arms = list(BanditArm.objects.order_by("pk"))
    for arm in arms:
        row = sums.get(arm.pk, {"n": 0, "total": 0.0, "squares": 0.0})
        arm.pulls, arm.total, arm.total_squares, arm.updated_at = row["n"], row["total"], row["squares"], timezone.now()
    BanditArm.objects.bulk_update(arms, ["pulls", "total", "total_squares", "updated_at"], batch_size=500)
    pulls = sum(row["n"] for row in sums.values())
    progress(1.0, f"{pulls:,} pulls in {len(sums)} arms")
    return pulls


def _arms(keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Ids of the arms of (category, variant id), made where missing."""
    keys = set(keys)
    wanted = BanditArm.objects.filter(
        category__in={category for category, _ in keys}, variant_id__in={variant for _, variant in keys}
    ).order_by()
    found = {(category, variant): pk for category, variant, pk in wanted.values_list("category", "variant_id", "pk")}
    if missing := keys - found.keys():
        # Another process may be making the same arm: the one that comes second keeps the first one's.
        BanditArm.objects.bulk_create(
            [BanditArm(category=category, variant_id=variant) for category, variant in sorted(missing)], ignore_conflicts=True
        )
        found = {(category, variant): pk for category, variant, pk in wanted.values_list("category", "variant_id", "pk")}
    return found


def _add(sums: list[float], value: float, sign: int) -> None:
    for i, power in enumerate((1.0, value, value * value)):
        sums[i] += sign * power
