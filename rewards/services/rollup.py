"""Sums of the log, kept in step with it.

Whoever changes the log adds a LogChange in the same transaction: one narrow row that no other writer touches, so that nobody
waits for a shared counter. Every FOLD_EVERY changes they are folded into LogSums; readers add what is still waiting
(docs/decisions/0013-sums-of-the-log.md).
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, connection, transaction

from rewards.models import Interaction, LogChange, LogSums, Pull, Reward
from rewards.rollup.spans import DAY, HOUR, MONTH, start_of
from rewards.rollup.sums import FIGURES, Sums, latency_bin
from rewards.services.evidence import LEAST_SQUARED
from rewards.services.turn import write_turn

logger = logging.getLogger(__name__)

FOLD_EVERY = 1000  # changes; folding them takes about 50 ms, reading as many that wait about 5
_FOLD_LOCK = 0x_ADA9_72A7  # any number that nothing else in the database uses
_COLUMNS = ("at", "category", "variant_id", *FIGURES, "bin")

Key = tuple[datetime, str, int]  # (start, category, variant id)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is added to the sums of the time when a question was asked."""

    at: datetime
    category: str
    variant_id: int
    interactions: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    ratings: int = 0
    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    bin: int | None = None


def asked(interactions: Iterable[Interaction]) -> list[Change]:
    """The changes that logging interactions makes; comparisons are no traffic and make none."""
    return [
        Change(
            at=one.created_at,
            category=one.category,
            variant_id=one.variant_id,
            interactions=1,
            failed=int(one.state != Interaction.State.ANSWERED),
            cost_usd=one.cost_usd,
            bin=latency_bin(one.latency_ms) if one.state == Interaction.State.ANSWERED else None,
        )
        for one in interactions
        if one.mode != Interaction.Mode.COMPARE
    ]


_INSERT = f"INSERT INTO {LogChange._meta.db_table} ({', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"  # noqa: S608


def changes_note(changes: Iterable[Change]) -> None:
    """Note changes in the transaction that makes them, and fold those that wait when there are FOLD_EVERY."""
    rows = [[getattr(change, name) for name in _COLUMNS] for change in changes]
    if not rows:
        return
    for row in rows:
        row[0] = connection.ops.adapt_datetimefield_value(row[0])
    *others, last = rows
    with connection.cursor() as cursor:
        if others:
            cursor.executemany(_INSERT, others)
        cursor.execute(f"{_INSERT} RETURNING id", last)
        number = cursor.fetchone()[0]
    if number // FOLD_EVERY != (number - len(rows)) // FOLD_EVERY:
        try:
            changes_fold()
        except DatabaseError:
            logger.exception("the log's changes could not be folded; they wait, and the next fold takes them")


@write_turn()
@transaction.atomic
def changes_fold() -> int:
    """Move the changes that wait into LogSums; returns how many. One process at a time; another returns at once."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_FOLD_LOCK])
            if not cursor.fetchone()[0]:
                return 0
    waiting = list(LogChange.objects.order_by("id").values_list("id", *_COLUMNS))
    _add(_hours(waiting))
    # Exactly those that were read: on PostgreSQL one with a smaller id may be committed meanwhile.
    ids = [row[0] for row in waiting]
    for begin in range(0, len(ids), 10_000):
        LogChange.objects.filter(id__in=ids[begin : begin + 10_000])._raw_delete(LogChange.objects.db)
    return len(waiting)


def sums_rebuild(*, pulls_only: bool = False) -> None:
    """LogSums from the log, in the caller's transaction. pulls_only: only what rated answers add (after a reset).

    The caller holds `evidence_lock(exclusive=True)`. Whoever logs an interaction meanwhile waits.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_FOLD_LOCK])
            # A change that is noted while the log is read would count twice; those in the making are waited for.
            cursor.execute(f"LOCK TABLE {LogChange._meta.db_table} IN SHARE ROW EXCLUSIVE MODE")
    hours: dict[Key, Sums] = defaultdict(Sums)
    if pulls_only:
        for model in (LogSums, LogChange):
            model.objects.exclude(n=0, total=0).update(n=0, total=0, squares=0)
    else:
        LogChange.objects.all().delete()
        LogSums.objects.all().delete()
        _add_interactions(hours)
        _add_ratings(hours)
    _add_pulls(hours)
    _add(hours)


def _hours(waiting: Iterable[Sequence[Any]]) -> dict[Key, Sums]:
    hours: dict[Key, Sums] = defaultdict(Sums)
    for _, at, category, variant, *figures, index in waiting:
        into = hours[start_of(HOUR, at), category, variant]
        for name, value in zip(FIGURES, figures, strict=True):
            setattr(into, name, getattr(into, name) + value)
        if index is not None:
            into.latency[index] += 1
    return hours


def _add(hours: dict[Key, Sums]) -> None:
    """Add to the rows of the hours and of their days and months. The caller excludes other folds."""
    if not hours:
        return
    for span in (HOUR, DAY, MONTH):
        sums: dict[Key, Sums] = defaultdict(Sums)
        for (start, category, variant), one in hours.items():
            sums[start_of(span, start), category, variant].add(one)
        there = {}
        starts = sorted({start for start, _, _ in sums})
        for begin in range(0, len(starts), 500):
            for row in LogSums.objects.filter(span=span, start__in=starts[begin : begin + 500]):
                there[row.start, row.category, row.variant_id] = row
        fresh, changed = [], []
        for key, one in sums.items():
            row = there.get(key)
            (fresh if row is None else changed).append(_written(row or LogSums(), span, key, one))
        LogSums.objects.bulk_create(fresh, batch_size=500)
        LogSums.objects.bulk_update(changed, [*FIGURES, "latency"], batch_size=50)


def _written(row: LogSums, span: str, key: Key, sums: Sums) -> LogSums:
    row.span, (row.start, row.category, row.variant_id) = span, key
    for name in FIGURES:
        setattr(row, name, getattr(row, name) + getattr(sums, name))
    latency = json.loads(row.latency)
    for index, count in sums.latency.items():
        latency[str(index)] = latency.get(str(index), 0) + count
    row.latency = json.dumps(latency, separators=(",", ":"))
    return row


def _hour_of(column: str) -> str:
    # Django's own truncation is a Python function on SQLite, called for each row.
    if connection.vendor == "sqlite":
        return f"substr({column}, 1, 13)"
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24')"


def _rows(sql: str) -> Iterable[tuple[Any, ...]]:
    """Rows with the hour's text at first made a datetime."""
    starts: dict[str, datetime] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql)
        while batch := cursor.fetchmany(10_000):
            for text, *rest in batch:
                if text not in starts:
                    starts[text] = datetime.strptime(text, "%Y-%m-%d %H").replace(tzinfo=UTC)
                yield starts[text], *rest


def _add_interactions(hours: dict[Key, Sums]) -> None:
    table = Interaction._meta.db_table
    columns = f"{_hour_of('created_at')}, category, variant_id, state, cost_usd, latency_ms"
    for start, category, variant, state, cost, latency in _rows(f"SELECT {columns} FROM {table} WHERE mode <> 'compare'"):  # noqa: S608
        into = hours[start, category, variant]
        into.interactions += 1
        into.cost_usd += cost
        if state == Interaction.State.ANSWERED:
            into.latency[latency_bin(latency)] += 1
        else:
            into.failed += 1


def _add_ratings(hours: dict[Key, Sums]) -> None:
    hour = _hour_of("i.created_at")
    join = f"{Reward._meta.db_table} r JOIN {Interaction._meta.db_table} i ON i.id = r.interaction_id"
    for start, category, variant, count in _rows(
        f"SELECT {hour}, i.category, i.variant_id, COUNT(*) FROM {join} GROUP BY {hour}, i.category, i.variant_id"  # noqa: S608
    ):
        hours[start, category, variant].ratings += count


def _add_pulls(hours: dict[Key, Sums]) -> None:
    hour = _hour_of("p.at")
    join = f"{Pull._meta.db_table} p JOIN {Pull._meta.get_field('arm').related_model._meta.db_table} a ON a.id = p.arm_id"
    sums = f"COUNT(*), SUM(p.value), SUM(CASE WHEN p.value < {LEAST_SQUARED} THEN 0 ELSE p.value * p.value END)"
    for start, category, variant, n, total, squares in _rows(
        f"SELECT {hour}, a.category, a.variant_id, {sums} FROM {join} GROUP BY {hour}, a.category, a.variant_id"  # noqa: S608
    ):
        into = hours[start, category, variant]
        into.n, into.total, into.squares = into.n + n, into.total + total, into.squares + squares
