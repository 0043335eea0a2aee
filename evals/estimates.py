"""The value of a policy from a log, by several estimators, and whether the log allows a conclusion. No ORM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.logs import LoggedRounds
from evals.ope import ESTIMATORS, cross_fitted, overlap


def estimated(
    rounds: LoggedRounds,
    target: np.ndarray,
    estimators: Sequence[str] = tuple(ESTIMATORS),
    *,
    clip: float = math.inf,
    interval: str = "asymptotic",
    seed: int = 0,
) -> dict[str, Any]:
    """{n, logged_mean, effective_sample_size, estimates: [{estimator, value, interval, ...}], conclusive, complaint, unseen,
    largest_weight}. target: the policy's probabilities, shape (n, K).

    Raises ValueError where the log has no round that the policy could have made, or too few."""
    classes = [ESTIMATORS[name] for name in estimators]
    predictions = cross_fitted(rounds, seed=seed) if any(cls.needs_predictions for cls in classes) else None
    found = [cls(clip=clip, interval=interval, seed=seed).estimate(rounds, target, predictions) for cls in classes]
    cover = overlap(rounds, target)
    return {
        "n": len(rounds),
        "logged_mean": float(rounds.rewards.mean()),
        "effective_sample_size": cover.effective_sample_size,
        "estimates": [estimate.as_dict() for estimate in found],
        "conclusive": cover.conclusive,
        "complaint": cover.complaint,
        "unseen": cover.unseen,
        "largest_weight": cover.largest_weight,
    }
