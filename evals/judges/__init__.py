"""Judges: one module each. `reference` needs gold answers, `pointwise` and `pairwise` need a chat model."""

from __future__ import annotations

from evals.judges.base import Verdict
from evals.judges.pairwise import PairVerdict, PairwiseJudge
from evals.judges.pointwise import PointwiseJudge

__all__ = ["PairVerdict", "PairwiseJudge", "PointwiseJudge", "Verdict"]
