"""How models get better, in the admin: datasets, trainings, distillations, quantizations, artifacts."""

from __future__ import annotations

from training.admin import interactions, quantizations, rows, runs

__all__ = ["interactions", "quantizations", "rows", "runs"]
