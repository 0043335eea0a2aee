"""Evaluation in the admin: sets, runs, comparisons, judges."""

from __future__ import annotations

from evals.admin import estimates, experiments, interactions, results, runs, sets

__all__ = ["estimates", "experiments", "interactions", "results", "runs", "sets"]
