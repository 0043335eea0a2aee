"""Errors of datasets, distillation and training."""

from __future__ import annotations

from adaptrag.common.errors import AdaptRAGError, Conflict, NotFound


class NothingToLearn(AdaptRAGError):
    """No example is left to train on."""

    code = "nothing_to_learn"
    status = 409


class TrainingFailed(AdaptRAGError):
    """Training broke in a way that is understood; the message says what to change."""

    code = "training_failed"


class QuantizationFailed(AdaptRAGError):
    """A build can't be made, or is not what it should be; the message says why."""

    code = "quantization_failed"


class UnknownRun(NotFound):
    code = "unknown_run"


class UnknownDataset(NotFound):
    code = "unknown_dataset"


class BudgetSpent(Conflict):
    """The teacher may not spend more."""

    code = "budget_spent"
