"""The direct method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evals.logs import LoggedRounds
from evals.ope.base import Array, Estimator, Terms
from evals.ope.dr import doubly_robust


@dataclass(frozen=True, kw_only=True)
class DM(Estimator):
    """The mean predicted reward of the policy's choices: little noise, and as wrong as the predictions are.

    Its interval is as wide as the doubly robust one around it: the predictions were learned from these rounds, so their error
    counts, and the weighted errors measure it. A bias of the model (a feature that it does not see) is in no interval.
    Beygelzimer & Langford (2009), The offset tree for learning with partial labels, KDD.
    """

    name: ClassVar[str] = "dm"
    needs_predictions: ClassVar[bool] = True

    def terms(self, rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Terms:
        spread = doubly_robust(rounds, target, weights, predictions)
        return Terms(numerators=(target * predictions).sum(axis=1), denominators=np.ones(len(rounds)), spread=spread)
