"""Counting calls against a rate."""

from __future__ import annotations

import re
import time
from functools import cache as memoized

from django.conf import settings
from django.core.cache import cache

RATE = re.compile(r"^(\d+)/(s|sec|second|min|minute|h|hour|day)$")
SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86400}


@memoized
def rate_parsed(rate: str) -> tuple[int, int]:
    """'600/min' -> (600, 60). Raises ValueError with the form that is wanted."""
    if not (match := RATE.match(rate.strip())) or int(match[1]) < 1:
        raise ValueError(f"{rate!r} is no rate; write a number, '/', and s, min, h or day, as in '600/min'")
    return int(match[1]), SECONDS[match[2]]


def spend(scope: str, ident: str, now: float | None = None) -> float | None:
    """Count one call of `ident`. Returns None where it is within the rate, else the seconds to wait.

    A sliding window of two counters (this window's, and the last one's weighted by its share that is still in view): two
    cache operations a call, whatever the rate, where a list of moments would grow with it.
    """
    limit, window = rate_parsed(settings.ADAPTRAG_THROTTLES[scope])
    this, last, elapsed = _window(scope, ident, window, now)
    before = cache.get(last, 0) * (1 - elapsed / window)
    try:
        spent = cache.incr(this)
    except ValueError:
        spent = 1 if cache.add(this, 1, timeout=2 * window) else cache.incr(this)
    if before + spent <= limit:
        return None
    cache.decr(this)  # a refused call costs nothing, so a client that backs off gets through
    return max(1.0, min(window - elapsed, (before + spent - limit) * window / limit))


def spent(scope: str, ident: str, now: float | None = None) -> bool:
    """Whether `ident` has used up its rate, without counting a call."""
    limit, window = rate_parsed(settings.ADAPTRAG_THROTTLES[scope])
    this, last, elapsed = _window(scope, ident, window, now)
    return cache.get(last, 0) * (1 - elapsed / window) + cache.get(this, 0) >= limit


def _window(scope: str, ident: str, window: int, now: float | None) -> tuple[str, str, float]:
    """Keys of this window's counter and the last one's, and the seconds that this one has run."""
    number, elapsed = divmod(time.time() if now is None else now, window)
    key = f"throttle:{scope}:{ident}:"
    return f"{key}{number:.0f}", f"{key}{number - 1:.0f}", elapsed
