"""Every change to datasets, distillations, trainings and budgets, one function each."""

from __future__ import annotations

from training.services.datasets import (
    DatasetRequest,
    dataset_drop,
    dataset_enqueue,
    dataset_execute,
    dataset_export,
    dataset_for,
    dataset_prepare,
    questions_reserve,
)
from training.services.distillations import (
    DistillationRequest,
    budget_get,
    budget_reserve,
    budget_set,
    distillation_cancel,
    distillation_create,
    distillation_execute,
    distillation_get,
    distillation_resume,
    distillation_start,
    distillation_summary,
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
    "DistillationRequest",
    "TrainingRequest",
    "budget_get",
    "budget_reserve",
    "budget_set",
    "dataset_drop",
    "dataset_enqueue",
    "dataset_execute",
    "dataset_export",
    "dataset_for",
    "dataset_prepare",
    "distillation_cancel",
    "distillation_create",
    "distillation_execute",
    "distillation_get",
    "distillation_resume",
    "distillation_start",
    "distillation_summary",
    "questions_reserve",
    "training_cancel",
    "training_create",
    "training_execute",
    "training_get",
    "training_resume",
    "training_start",
]
