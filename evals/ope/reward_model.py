"""Expected rewards for the direct method and doubly robust estimation: shrunk means, fitted on other rounds."""

from __future__ import annotations

import numpy as np

from evals.logs import LoggedRounds

Array = np.ndarray
MASS = 0.5  # rewards that the mean above weighs as much as


def cross_fitted(rounds: LoggedRounds, *, folds: int = 5, seed: int = 0) -> Array:
    """Predicted reward of every arm in every round, shape (n, K), each from the folds that the round is not in.

    An arm's mean in the round's stratum, drawn to its mean over strata, drawn to the mean of all. Cross-fitting keeps a
    round's own reward out of its prediction (Chernozhukov et al., 2018). Raises ValueError with fewer rounds than folds."""
    n, shape = len(rounds), (len(rounds.stratum_names), len(rounds.arms))
    if n < folds:
        raise ValueError(f"{n} rounds are too few for {folds} folds.")
    fold = np.random.default_rng(seed).permutation(n) % folds
    cells = rounds.strata * shape[1] + rounds.actions
    predictions = np.empty((n, shape[1]))
    for out in range(folds):
        kept = fold != out
        counts = np.bincount(cells[kept], minlength=shape[0] * shape[1]).reshape(shape)
        sums = np.bincount(cells[kept], weights=rounds.rewards[kept], minlength=shape[0] * shape[1]).reshape(shape)
        overall = sums.sum() / counts.sum()
        arms = (sums.sum(axis=0) + MASS * overall) / (counts.sum(axis=0) + MASS)
        means = (sums + MASS * arms) / (counts + MASS)
        predictions[~kept] = means[rounds.strata[~kept]]
    return predictions
