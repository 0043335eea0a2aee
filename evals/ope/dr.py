"""Doubly robust estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evals.logs import LoggedRounds
from evals.ope.base import Array, Estimator, Terms


@dataclass(frozen=True, kw_only=True)
class DR(Estimator):
    """The direct method, corrected by the weighted errors of its predictions: right if either of the two is.

    Predictions must come from other rounds than those that they are for (`reward_model.cross_fitted`).
    Dudik, Langford & Li (2011), Doubly robust policy evaluation and learning, ICML.
    """

    name: ClassVar[str] = "dr"
    needs_predictions: ClassVar[bool] = True

    def terms(self, rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Terms:
        corrected = doubly_robust(rounds, target, weights, predictions)
        return Terms(numerators=corrected, denominators=np.ones(len(rounds)), spread=corrected)


def doubly_robust(rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Array:
    """sum_a target(a) q(a) + w (r - q(logged arm)) of each round; shape (n,)."""
    logged = predictions[np.arange(len(rounds)), rounds.actions]
    return (target * predictions).sum(axis=1) + weights * (rounds.rewards - logged)
