"""Is a judge worth believing? Its scores against people's rewards and against token F1 with gold answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A judge counts as calibrated when, over enough pairs, it orders answers as the reference does beyond doubt.
# 50 pairs hold a correlation of 0.5 within about 0.22; a judge whose lower bound is under 0.3 orders little.
MIN_PAIRS = 50
MIN_SPEARMAN_LOW = 0.3
BINS = 5


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Agreement over `n` pairs. spearman_low/high: 95 % interval (Fisher's z with Bonett & Wright's (2000) variance).

    kappa: Cohen's, with both sides cut at 0.5. reliability: (mean judge score, mean reference, pairs) per score bin.
    """

    n: int
    spearman: float
    spearman_low: float
    spearman_high: float
    kappa: float
    reliability: tuple[tuple[float, float, int], ...]

    @property
    def calibrated(self) -> bool:
        return self.n >= MIN_PAIRS and self.spearman_low >= MIN_SPEARMAN_LOW

    def words(self) -> str:
        if self.n < MIN_PAIRS:
            return f"Not calibrated: {self.n} pairs of {MIN_PAIRS} needed."
        state = "Calibrated" if self.calibrated else "Not calibrated"
        interval = f"{self.spearman_low:.2f} to {self.spearman_high:.2f}"
        return f"{state}: Spearman {self.spearman:.2f} ({interval}), kappa {self.kappa:.2f}, {self.n} pairs."


def calibrate(judged: Sequence[float], reference: Sequence[float]) -> Calibration:
    """Both in [0, 1], same length; pairs with a NaN are left out."""
    from scipy.stats import spearmanr

    pairs = np.array([(left, right) for left, right in zip(judged, reference, strict=True) if not math.isnan(left + right)])
    n = len(pairs)
    spearman = low = high = kappa = math.nan
    if n >= 4 and np.ptp(pairs[:, 0]) > 0 and np.ptp(pairs[:, 1]) > 0:
        spearman = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
        half = 1.96 * math.sqrt((1 + spearman**2 / 2) / (n - 3))
        bounded = min(max(spearman, -1 + 1e-9), 1 - 1e-9)
        low, high = math.tanh(math.atanh(bounded) - half), math.tanh(math.atanh(bounded) + half)
    if n:
        kappa = cohens_kappa(pairs[:, 0] >= 0.5, pairs[:, 1] >= 0.5)
    bins: list[tuple[float, float, int]] = []
    for index in range(BINS if n else 0):
        place = np.minimum((pairs[:, 0] * BINS).astype(int), BINS - 1) == index
        if place.any():
            bins.append((float(pairs[place, 0].mean()), float(pairs[place, 1].mean()), int(place.sum())))
    return Calibration(n=n, spearman=spearman, spearman_low=low, spearman_high=high, kappa=kappa, reliability=tuple(bins))


def cohens_kappa(left: np.ndarray, right: np.ndarray) -> float:
    """(p_o - p_e) / (1 - p_e) of two boolean ratings, shape (n,) (Cohen, 1960); NaN where chance alone agrees fully."""
    observed = float((left == right).mean())
    expected = float(left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean()))
    return math.nan if expected == 1.0 else (observed - expected) / (1 - expected)
