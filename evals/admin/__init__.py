"""Evaluation in the admin: sets, runs, comparisons, judges."""

from __future__ import annotations

from evals.admin import experiments, interactions, results, runs, sets

__all__ = ["experiments", "interactions", "results", "runs", "sets"]
