"""When is a difference real? Intervals and paired tests over per-question scores; NaN marks an unscored item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

RESAMPLES = 4000
POWER = 0.8
EQUAL = 1e-9  # differences of scores below this are arithmetic


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over `n` scored items with its interval; `unscored` items are counted, never taken for zeros."""

    mean: float
    low: float
    high: float
    n: int
    unscored: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Agent minus baseline over the `n` items that both have a score for.

    `p_value` is Wilcoxon's, or McNemar's where every score is 0 or 1 (`test` says which); `p_adjusted` is Holm's over the
    comparisons made together. `detectable` is the smallest true difference that this n finds with power 0.8.
    """

    agent: str
    baseline: str
    difference: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int
    test: str
    p_value: float
    p_adjusted: float
    detectable: float

    def sentence(self) -> str:
        """The result in words: a difference is claimed where the interval leaves out zero and the adjusted test agrees."""
        questions = f"{self.n} question{'' if self.n == 1 else 's'}"
        if self.n < 2 or math.isnan(self.low):
            return f"Not enough data to compare {self.agent} with {self.baseline}: {questions}."
        if self.high - self.low < EQUAL:  # every question says the same, so there is no spread and no interval
            if abs(self.difference) < EQUAL:
                return f"No difference shown between {self.agent} and {self.baseline}: identical on all {questions}."
            if self.p_adjusted < 0.05:
                word = "better" if self.difference > 0 else "worse"
                return f"{self.agent} is {word} than {self.baseline} by {abs(self.difference):.2f} on all {questions}."
            why = f"{self.difference:+.2f} on all {questions}, too few for the test ({self.test}, p = {self.p_adjusted:.2f})"
            return f"No difference shown between {self.agent} and {self.baseline}: {why}."
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}; {questions}"
        if self.p_adjusted < 0.05 and (self.low > 0 or self.high < 0):
            word = "better" if self.difference > 0 else "worse"
            return f"{self.agent} is {word} than {self.baseline} by {abs(self.difference):.2f}, {interval}."
        if self.low > 0 or self.high < 0:
            why = f"the interval leaves out zero, the test disagrees ({self.test}, adjusted p = {self.p_adjusted:.2f})"
        else:
            why = f"a difference under {self.detectable:.2f} would go unnoticed"
        return f"No difference shown between {self.agent} and {self.baseline}: {self.difference:+.2f}, {interval}; {why}."


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean with a bias-corrected accelerated bootstrap interval (Efron, 1987), by scipy.

    Where all scores are equal the bootstrap knows no spread; the interval is then Wilson's (1927), which treats scores in
    [0, 1] as a proportion. Fewer than two scores give a NaN interval.
    """
    values = np.asarray(scores, dtype=float)
    scored = values[~np.isnan(values)]
    unscored = int(values.size - scored.size)
    mean = float(scored.mean()) if scored.size else math.nan
    low, high = _interval(scored, confidence, seed) if scored.size >= 2 else (math.nan, math.nan)
    return Estimate(mean=mean, low=low, high=high, n=int(scored.size), unscored=unscored)


def compare(
    scores: Mapping[str, Sequence[float]], baseline: str, *, confidence: float = 0.95, seed: int = 0
) -> list[Comparison]:
    """Each agent against the baseline over the same items, in the order of `scores`.

    scores: agent -> one score per item, equal lengths, NaN for unscored. Raises ValueError where lengths differ or the
    baseline is missing.
    """
    if baseline not in scores:
        raise ValueError(f"The baseline {baseline!r} is not among {', '.join(scores)}.")
    if len({len(values) for values in scores.values()}) > 1:
        raise ValueError("Every agent needs one score per item (NaN where unscored); the lengths differ.")
    reference = np.asarray(scores[baseline], dtype=float)
    rows = []
    for agent, values in scores.items():
        if agent == baseline:
            continue
        difference = np.asarray(values, dtype=float) - reference
        both = ~np.isnan(difference)
        rows.append((agent, difference[both], np.asarray(values, dtype=float)[both], reference[both]))
    comparisons = []
    for agent, difference, agent_scores, reference_scores in rows:
        test, p_value = _paired_test(agent_scores, reference_scores)
        low, high = _interval(difference, confidence, seed, bounded=False) if difference.size >= 2 else (math.nan, math.nan)
        comparisons.append(
            Comparison(
                agent=agent,
                baseline=baseline,
                difference=float(difference.mean()) if difference.size else math.nan,
                low=low,
                high=high,
                n=int(difference.size),
                wins=int((difference > 0).sum()),
                ties=int((difference == 0).sum()),
                losses=int((difference < 0).sum()),
                test=test,
                p_value=p_value,
                p_adjusted=p_value,
                detectable=minimum_detectable_difference(difference),
            )
        )
    return holm(comparisons)


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with `p_adjusted` over all of them together (Holm, 1979); those without a p-value are left out of the count."""
    from statsmodels.stats.multitest import multipletests

    known = [index for index, one in enumerate(comparisons) if not math.isnan(one.p_value)]
    adjusted = dict.fromkeys(range(len(comparisons)), math.nan)
    if known:
        values = multipletests([comparisons[index].p_value for index in known], method="holm")[1]
        adjusted |= dict(zip(known, map(float, values), strict=True))
    return [replace(one, p_adjusted=adjusted[index]) for index, one in enumerate(comparisons)]


def minimum_detectable_difference(differences: Sequence[float], *, alpha: float = 0.05, power: float = POWER) -> float:
    """(z_{1-alpha/2} + z_power) s / sqrt(n): the normal approximation for a paired mean; NaN below two items."""
    from scipy.stats import norm

    values = np.asarray(differences, dtype=float)
    if values.size < 2:
        return math.nan
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * values.std(ddof=1) / math.sqrt(values.size))


def sample_size(difference: float, deviation: float, *, alpha: float = 0.05, power: float = POWER) -> int:
    """Items per arm that find `difference` between two independent means of standard deviation `deviation`."""
    from scipy.stats import norm

    if difference == 0 or deviation <= 0:
        raise ValueError(f"Give a difference other than 0 and a positive deviation, not {difference} and {deviation}.")
    z = norm.ppf(1 - alpha / 2) + norm.ppf(power)
    return math.ceil(2 * (z * deviation / difference) ** 2)


def _interval(values: np.ndarray, confidence: float, seed: int, *, bounded: bool = True) -> tuple[float, float]:
    from scipy.stats import bootstrap, norm

    if np.ptp(values) < EQUAL:
        if not bounded:
            return float(values[0]), float(values[0])
        z, n, share = norm.ppf(0.5 + confidence / 2), values.size, float(np.clip(values[0], 0, 1))
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)
    result = bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(seed),
        batch=max(1, 2_000_000 // values.size),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _paired_test(scores: np.ndarray, reference: np.ndarray) -> tuple[str, float]:
    """(name, two-sided p): exact McNemar for right/wrong, Wilcoxon's signed ranks otherwise (zeros by Pratt, 1959)."""
    from scipy.stats import binomtest, wilcoxon

    binary = bool(np.isin(scores, (0.0, 1.0)).all() and np.isin(reference, (0.0, 1.0)).all())
    name = "McNemar" if binary else "Wilcoxon"
    if scores.size < 2:
        return name, math.nan
    difference = scores - reference
    if not difference.any():
        return name, 1.0
    if binary:
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        return name, float(binomtest(better, better + worse).pvalue)
    return name, float(wilcoxon(difference, zero_method="pratt").pvalue)
