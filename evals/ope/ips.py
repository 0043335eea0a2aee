"""Inverse propensity scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evals.logs import LoggedRounds
from evals.ope.base import Array, Estimator, Terms


@dataclass(frozen=True, kw_only=True)
class IPS(Estimator):
    """mean(w r), w = target / propensity: unbiased with exact propensities, and noisy where w is large.

    Horvitz & Thompson (1952), JASA 47; Strehl et al. (2010), Learning from logged implicit exploration data, NIPS 23.
    """

    name: ClassVar[str] = "ips"

    def terms(self, rounds: LoggedRounds, target: Array, weights: Array, predictions: Array) -> Terms:
        products = weights * rounds.rewards
        return Terms(numerators=products, denominators=np.ones(len(rounds)), spread=products)
