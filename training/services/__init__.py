"""Every change to datasets, distillations, trainings and budgets, one function each."""

from __future__ import annotations

from training.services.datasets import (
    DatasetRequest,
    dataset_drop,
    dataset_export,
    dataset_for,
    dataset_prepare,
    questions_reserve,
)
from training.services.trainings import (
    TrainingRequest,
    training_cancel,
    training_create,
    training_execute,
    training_get,
    training_resume,
    training_start,
)

__all__ = [
    "DatasetRequest",
    "TrainingRequest",
    "dataset_drop",
    "dataset_export",
    "dataset_for",
    "dataset_prepare",
    "questions_reserve",
    "training_cancel",
    "training_create",
    "training_execute",
    "training_get",
    "training_resume",
    "training_start",
]
