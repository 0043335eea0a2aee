"""Progress of a long action: the caller supplies how it is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(self, fraction: float, message: str = "") -> None: ...


def silent(fraction: float, message: str = "") -> None:
    """Progress that nobody watches."""


def part(progress: Progress, start: float, end: float, message: str) -> Progress:
    """The progress of one stage as a share of the whole."""

    def report(fraction: float, detail: str = "") -> None:
        progress(start + (end - start) * fraction, detail or message)

    return report
