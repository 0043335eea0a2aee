"""Evaluation in the admin: sets, runs, comparisons, judges."""

from __future__ import annotations

from evals.admin import interactions, results, runs, sets

__all__ = ["interactions", "results", "runs", "sets"]
