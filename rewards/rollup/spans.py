"""Hours, days and months of UTC: which of them make up a period. No ORM."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

HOUR, DAY, MONTH = SPANS = ("h", "d", "m")
_HOUR = timedelta(hours=1)


class Range(NamedTuple):
    """The spans of one length that start in [low, high); None: no bound."""

    span: str
    low: datetime | None
    high: datetime | None


def start_of(span: str, at: datetime) -> datetime:
    """The start of the hour, day or month that `at` lies in.

    >>> start_of("d", datetime(2026, 11, 22, 18, 30, tzinfo=UTC)).isoformat()
    '2026-11-22T00:00:00+00:00'
    """
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if span == HOUR:
        return hour
    day = hour.replace(hour=0)
    return day if span == DAY else day.replace(day=1)


def from_on(span: str, at: datetime) -> datetime:
    """`at` where a span starts there, else the start of the next one."""
    start = start_of(span, at)
    if start == at:
        return start
    # 32 days lead from the first of a month into the next one.
    return start_of(span, start + {HOUR: _HOUR, DAY: timedelta(days=1), MONTH: timedelta(days=32)}[span])


def ranges(since: datetime | None, until: datetime | None) -> Iterator[Range]:
    """The fewest spans that make up [since, until), both at full hours; None: no bound.

    >>> begin, end = datetime(2026, 1, 30, 22, tzinfo=UTC), datetime(2026, 3, 2, 1, tzinfo=UTC)
    >>> for span, low, high in ranges(begin, end): print(span, f"{low:%d %b %H}-{high:%d %b %H}")
    h 30 Jan 22-31 Jan 00
    d 31 Jan 00-01 Feb 00
    m 01 Feb 00-01 Mar 00
    d 01 Mar 00-02 Mar 00
    h 02 Mar 00-02 Mar 01
    >>> [one.span for one in ranges(begin, None)], [one.span for one in ranges(None, None)]
    (['h', 'd', 'm'], ['m'])
    """
    days = _inner(DAY, since, until)
    if days is None:
        yield from _some(HOUR, since, until)
        return
    months = _inner(MONTH, *days)
    yield from _some(HOUR, since, days[0]) if since else ()
    if months is None:
        yield from _some(DAY, *days)
    else:
        yield from _some(DAY, days[0], months[0]) if since else ()
        yield Range(MONTH, *months)
        yield from _some(DAY, months[1], days[1]) if until else ()
    yield from _some(HOUR, days[1], until) if until else ()


def _inner(span: str, since: datetime | None, until: datetime | None) -> tuple[datetime | None, datetime | None] | None:
    """The part of a period that whole spans fill, None if there is none."""
    low = from_on(span, since) if since else None
    high = start_of(span, until) if until else None
    return None if low and high and low >= high else (low, high)


def _some(span: str, low: datetime | None, high: datetime | None) -> Iterator[Range]:
    if low is None or high is None or low < high:
        yield Range(span, low, high)
