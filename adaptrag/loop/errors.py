"""Errors of the loop."""

from __future__ import annotations

from adaptrag.common.errors import NotFound


class UnknownImprovement(NotFound):
    code = "unknown_improvement"
