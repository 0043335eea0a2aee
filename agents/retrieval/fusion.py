"""Two halves of a hybrid search to one score."""

from __future__ import annotations

import numpy as np


def fuse(sparse: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Sum of the two halves' z-scores. Float arrays, shape (candidates,): both halves' scores of the same candidates."""
    return _standardised(sparse) + _standardised(dense)


def _standardised(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
