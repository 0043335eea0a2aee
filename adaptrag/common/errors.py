"""The errors that a user or an operator gets to see. Each app derives its own few from these."""

from __future__ import annotations

from typing import Any


class AdaptRAGError(Exception):
    """An expected failure, told in words: what was wrong, with which value, and what to do.

    `code` is for programs, `status` is the HTTP status that the API answers with, `details` holds JSON-ready extras.
    """

    code = "error"
    status = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidInput(AdaptRAGError):
    code = "invalid_input"
    status = 400


class NotFound(AdaptRAGError):
    code = "not_found"
    status = 404


class Conflict(AdaptRAGError):
    code = "conflict"
    status = 409


class Unavailable(AdaptRAGError):
    """Something that the request needs is down, slow or not configured."""

    code = "unavailable"
    status = 503
