"""How models get better, in the admin: datasets, trainings, distillations, quantizations, artifacts."""

from __future__ import annotations

from training.admin import quantizations, rows, runs

__all__ = ["quantizations", "rows", "runs"]
