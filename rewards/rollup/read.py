"""Reading the sums of the log: what is folded and what still waits, in one statement, so that nothing counts twice."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connection

from rewards.models import LogChange, LogSums
from rewards.rollup.spans import HOUR, ranges, start_of
from rewards.rollup.sums import FIGURES, Sums

Key = tuple[str, int]  # (category, variant id)

_NOTHING = Sums()
_FIGURES = ", ".join(FIGURES)
_FOLDED, _WAITING = LogSums._meta.db_table, LogChange._meta.db_table


def log_sums(since: datetime | None = None, until: datetime | None = None, category: str | None = None) -> dict[Key, Sums]:
    """By (category, variant): the sums of what was asked in [since, until), both taken back to their full hour."""
    sql, parameters = _selects(
        since, until, category, (f"category, variant_id, {_FIGURES}, latency, CAST(NULL AS integer)", "'', bin")
    )
    found: dict[Key, Sums] = defaultdict(Sums)
    texts: dict[Key, list[str]] = defaultdict(list)
    for name, variant, *figures, latency, index in _fetched(sql, parameters):
        into = found[name, variant]
        for figure, value in zip(FIGURES, figures, strict=True):
            setattr(into, figure, getattr(into, figure) + value)
        if index is not None:
            into.latency[index] += 1
        elif latency and latency != "{}":
            texts[name, variant].append(latency)
    for key, latencies in texts.items():
        _add_latencies(found[key].latency, latencies)
    return dict(found)


def log_series(starts: Sequence[datetime], until: datetime | None = None, category: str | None = None) -> list[dict[int, Sums]]:
    """By variant, for each of the periods that begin at `starts` and end where the next begins (the last at `until`).

    Latencies are left out."""
    parts, parameters = [], []
    for index, (low, high) in enumerate(zip(starts, [*starts[1:], until], strict=True)):
        sql, values = _selects(low, high, category, (f"{index} AS period, variant_id, {_FIGURES}", ""))
        parts.append(sql)
        parameters += values
    sums = ", ".join(f"SUM({name})" for name in FIGURES)
    sql = f"SELECT period, variant_id, {sums} FROM ({' UNION ALL '.join(parts)}) AS part GROUP BY period, variant_id"  # noqa: S608
    periods: list[dict[int, Sums]] = [{} for _ in starts]
    for index, variant, *figures in _fetched(sql, parameters):
        # PostgreSQL adds up bigints to decimals.
        kinds = zip(FIGURES, figures, strict=True)
        periods[index][variant] = Sums(**{name: type(getattr(_NOTHING, name))(value) for name, value in kinds})
    return periods


def _selects(
    since: datetime | None, until: datetime | None, category: str | None, columns: tuple[str, str]
) -> tuple[str, list[Any]]:
    """UNION ALL of the folded spans that make up the period and of the changes that wait. columns: of the first, and what the
    second has instead of latency and bin."""
    low, high = (start_of(HOUR, at) if at else None for at in (since, until))
    parts, parameters = [], []
    for one in ranges(low, high):
        where, values = _where("start", one.low, one.high, category)
        parts.append(f"SELECT {columns[0]} FROM {_FOLDED} WHERE span = %s{where}")  # noqa: S608
        parameters += [one.span, *values]
    where, values = _where("at", low, high, category)
    waiting = f"{columns[0].removesuffix('latency, CAST(NULL AS integer)')}{columns[1]}"
    parts.append(f"SELECT {waiting} FROM {_WAITING} WHERE 1 = 1{where}")  # noqa: S608
    return " UNION ALL ".join(parts), parameters + values


def _where(column: str, low: datetime | None, high: datetime | None, category: str | None) -> tuple[str, list[Any]]:
    adapt = connection.ops.adapt_datetimefield_value
    bounds = [
        (f" AND {column} >= %s", low and adapt(low)),
        (f" AND {column} < %s", high and adapt(high)),
        (" AND category = %s", category),
    ]
    return "".join(sql for sql, value in bounds if value is not None), [value for _, value in bounds if value is not None]


def _fetched(sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def _add_latencies(into: Counter[int], texts: list[str]) -> None:
    # One call of the parser for all rows takes half the time of one call a row.
    for latency in json.loads(f"[{','.join(texts)}]"):
        for index, count in latency.items():
            into[int(index)] += count
