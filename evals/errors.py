"""Errors of offline evaluation."""

from __future__ import annotations

from adaptrag.common.errors import AdaptRAGError, InvalidInput, NotFound


class BadEvalSet(InvalidInput):
    """A file or selection that can't become an eval set; `lines` names the places."""

    code = "bad_eval_set"


class UnknownEvalSet(NotFound):
    code = "unknown_eval_set"


class UnknownRun(NotFound):
    code = "unknown_run"


class JudgeFailed(AdaptRAGError):
    """The judge gave no usable verdict after its retries; the item stays unscored."""

    code = "judge_failed"
    status = 502
