"""A fixed-split experiment: who gets which agent, and what may be concluded when. Pure: no ORM."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.statistics import POWER, Estimate, mean_interval, sample_size

ALPHA = 0.05
FIXED_HORIZON, ALWAYS_VALID = "fixed_horizon", "always_valid"
# The confidence sequence rests on a central limit theorem; below this many units an agent has no interval.
FEWEST = 20


def assigned(shares: Mapping[str, float], key: str) -> str | None:
    """The agent for a key, the same each time; None for the part of the keys that the shares leave over.

    shares: agent -> share, summing to at most 1.
    """
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    for agent, share in sorted(shares.items()):
        point -= share
        if point < 0:
            return agent
    return None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Agent minus baseline, in reward units. `final`: a conclusion may be drawn from it now."""

    agent: str
    baseline: str
    difference: float
    low: float
    high: float
    n: tuple[int, int]
    p_value: float
    p_adjusted: float
    final: bool
    analysis: str

    def sentence(self) -> str:
        if math.isnan(self.low):
            return f"Not enough data to compare {self.agent} with {self.baseline}: {self.n[0]} and {self.n[1]} rated sessions."
        kind = "95 % interval" if self.analysis == FIXED_HORIZON else "95 % confidence sequence"
        told = f"{kind} {self.low:.2f} to {self.high:.2f}; {self.n[0]} and {self.n[1]} rated sessions"
        if not self.final:
            so_far = f"{self.agent} against {self.baseline}: {self.difference:+.2f} so far"
            return f"{so_far}. No conclusion before the planned size; {told}."
        if self.low > 0 or self.high < 0:
            word = "better" if self.difference > 0 else "worse"
            return f"{self.agent} is {word} than {self.baseline} by {abs(self.difference):.2f}, {told}."
        return f"No difference shown between {self.agent} and {self.baseline}: {self.difference:+.2f}, {told}."


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Means per agent, and each agent against the baseline."""

    means: dict[str, Estimate]
    differences: list[Difference]


def analyse(rewards: Mapping[str, Sequence[float]], baseline: str, *, analysis: str, planned: int) -> Analysis:
    """rewards: agent -> one mean reward for each session that was rated, in the order they were; planned: sessions an agent.

    Fixed horizon: one look at the first `planned` sessions of every agent, whatever came after; Welch's t-test, Holm over the
    agents, intervals at Bonferroni's level. Always valid: an asymptotic confidence sequence for the difference (Waudby-Smith et
    al., 2024, theorem 2.2, with the running variance of both means), which may be looked at after every rating.
    """
    most = planned if analysis == FIXED_HORIZON else None
    values = {agent: np.asarray(given, dtype=float)[:most] for agent, given in rewards.items()}
    others = [agent for agent in values if agent != baseline]
    alpha = ALPHA / max(1, len(others))
    complete = all(one.size >= planned for one in values.values())
    compare = _welch if analysis == FIXED_HORIZON else _sequence
    differences = []
    for agent in others:
        difference, low, high, p_value = compare(values[agent], values[baseline], alpha, planned)
        differences.append(
            Difference(
                agent=agent,
                baseline=baseline,
                difference=difference,
                low=low,
                high=high,
                n=(int(values[agent].size), int(values[baseline].size)),
                p_value=p_value,
                p_adjusted=p_value,
                final=complete if analysis == FIXED_HORIZON else not math.isnan(low),
                analysis=analysis,
            )
        )
    return Analysis(means={agent: mean_interval(given) for agent, given in values.items()}, differences=_holm(differences))


def planned_size(difference: float, deviation: float, *, analysis: str, agents: int) -> int:
    """Rated sessions an agent that find `difference` with power 0.8, at the 5 % level over all agents.

    Always valid: the n at which half the sequence's width (tuned to n itself) and z_0.8 standard errors fit into the
    difference. Both shrink with sqrt(n), so n has a closed form.
    """
    from scipy.stats import norm

    alpha = ALPHA / max(1, agents - 1)
    if analysis == FIXED_HORIZON:
        return sample_size(difference, deviation, alpha=alpha)
    steps = _steps(alpha)
    width = 2 * math.sqrt((steps + 1) / steps * math.log(math.sqrt(steps + 1) / alpha))
    return math.ceil(((width + norm.ppf(POWER) * math.sqrt(2)) * deviation / difference) ** 2)


def _welch(agent: np.ndarray, baseline: np.ndarray, alpha: float, planned: int) -> tuple[float, float, float, float]:
    from scipy.stats import ttest_ind

    if min(agent.size, baseline.size) < 2 or (np.ptp(agent) == 0 and np.ptp(baseline) == 0):
        return _difference(agent, baseline), math.nan, math.nan, math.nan
    result = ttest_ind(agent, baseline, equal_var=False)
    interval = result.confidence_interval(1 - alpha)
    return _difference(agent, baseline), float(interval.low), float(interval.high), float(result.pvalue)


def _sequence(agent: np.ndarray, baseline: np.ndarray, alpha: float, planned: int) -> tuple[float, float, float, float]:
    difference = _difference(agent, baseline)
    if min(agent.size, baseline.size) < FEWEST:
        return difference, math.nan, math.nan, math.nan
    half = sequence_half_width(agent, baseline, alpha=alpha, planned=planned)
    return difference, difference - half, difference + half, math.nan


def sequence_half_width(agent: np.ndarray, baseline: np.ndarray, *, alpha: float, planned: int) -> float:
    """Half the width of the confidence sequence after these observations; tightest near `planned` of each."""
    n = agent.size + baseline.size
    variance = n * (agent.var(ddof=1) / agent.size + baseline.var(ddof=1) / baseline.size)
    horizon = max(2 * planned, 2)
    rho2 = _steps(alpha) / horizon
    term = n * rho2 + 1
    return math.sqrt(variance * 2 * term / (n * n * rho2) * math.log(math.sqrt(term) / alpha))


def _steps(alpha: float) -> float:
    """rho^2 times the horizon at which the sequence is tightest (Waudby-Smith et al., 2024, appendix B.2)."""
    return -2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)


def _difference(agent: np.ndarray, baseline: np.ndarray) -> float:
    return float(agent.mean() - baseline.mean()) if agent.size and baseline.size else math.nan


def _holm(differences: list[Difference]) -> list[Difference]:
    from statsmodels.stats.multitest import multipletests

    known = [index for index, one in enumerate(differences) if not math.isnan(one.p_value)]
    if not known:
        return differences
    adjusted = multipletests([differences[index].p_value for index in known], method="holm")[1]
    found = dict(zip(known, map(float, adjusted), strict=True))
    return [replace(one, p_adjusted=found.get(index, one.p_adjusted)) for index, one in enumerate(differences)]
