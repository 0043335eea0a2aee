"""When a variant moves on: candidate -> (gate) -> canary -> active -> retired. Pure: frozen evidence in, verdicts out.

The gate compares a candidate with its incumbent offline, on the same questions. A canary is then compared with the
incumbent on rated traffic; one probability decides both ways, that its mean reward is lower by more than a margin: small, its
share grows and it becomes active; large, it is rolled back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from rewards.rollup.sums import Sums, at_rank, percentile

# Ratings; a canary is assumed to be as good as its incumbent until so many speak (docs/decisions/0015-promotion.md).
PRIOR = 4.0
SHRINK = 5.0  # ratings; of the incumbent's overall mean in each category
FEWEST_LATENCIES = 20
_LEVELS = (np.arange(200) + 0.5) / 200


class Outcome(StrEnum):
    """What a verdict asks for."""

    PASS = "pass"  # noqa: S105
    REJECT = "reject"
    NEEDS_HUMAN = "needs_human"
    HOLD = "hold"
    GROW = "grow"
    ACTIVATE = "activate"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """outcome, the sentence that says why, and the figures behind it (JSON-ready)."""

    outcome: Outcome
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A candidate and its incumbent over the same n questions. Scores in [0, 1]; a failed answer scores 0.

    difference, low, high: mean of candidate minus incumbent with its 95 % paired interval; None where n is below 2.
    *_cost_usd, *_latency_ms: mean cost and median latency of an answer. references: gold, corrections (people's, held out of
    training) or judge. judge_calibrated: of a judge that scored. source: where it comes from, such as "eval run 7".
    """

    candidate: str
    incumbent: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    candidate_mean: float | None = None
    incumbent_mean: float | None = None
    candidate_cost_usd: float = 0.0
    incumbent_cost_usd: float = 0.0
    candidate_latency_ms: float | None = None
    incumbent_latency_ms: float | None = None
    references: str = "gold"
    judge_calibrated: bool | None = None
    source: str = ""

    REFERENCES = ("gold", "corrections", "judge")

    def __post_init__(self) -> None:
        if self.references not in self.REFERENCES:
            raise ValueError(f"references are {', '.join(self.REFERENCES)}, not {self.references!r}.")
        known = [value for value in (self.difference, self.low, self.high) if value is not None]
        if not all(map(math.isfinite, known)) or (self.n >= 2 and len(known) < 3):
            raise ValueError(f"{self.n} questions need a finite difference and interval, not {known}.")

    @property
    def saving(self) -> float:
        """The part of the incumbent's cost and latency that the candidate saves, 0 to 1: the geometric mean of both ratios.

        One that neither has (free models) is left out. Dearer and slower candidates save nothing.
        """
        pairs = [(self.candidate_cost_usd, self.incumbent_cost_usd), (self.candidate_latency_ms, self.incumbent_latency_ms)]
        ratios = [own / other for own, other in pairs if own is not None and other]
        if self.candidate_cost_usd and not self.incumbent_cost_usd:
            return 0.0  # what was free costs money now
        if not ratios:
            return 0.0
        return min(max(1 - math.prod(ratios) ** (1 / len(ratios)), 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """All that an operator may set; rewards in [0, 1]. docs/configuration.md says what each means.

    >>> Thresholds(canary_share=0.5, canary_max_share=0.2).problems()
    {'canary_max_share': 'must lie between canary_share (0.5) and 1, not 0.2'}
    """

    gate_references: int = 50
    gate_margin: float = 0.05
    canary_share: float = 0.1
    canary_max_share: float = 0.2
    canary_ratings: int = 10
    canary_grow_at: float = 0.8
    canary_activate_at: float = 0.95
    guard_margin: float = 0.05
    guard_at: float = 0.98
    guard_ratings: int = 8
    guard_errors: float = 0.1
    guard_latency: float = 2.0

    def problems(self) -> dict[str, str]:
        """Field -> what is wrong with it; empty where all is well."""
        least = {"gate_references": 2, "canary_ratings": 1, "guard_ratings": 1}
        found = {
            name: f"must be at least {low}, not {getattr(self, name)!r}"
            for name, low in least.items()
            if not getattr(self, name) >= low
        }
        for name in ("gate_margin", "guard_margin", "guard_errors"):
            if not 0 <= getattr(self, name) <= 1:
                found[name] = f"must lie between 0 and 1, not {getattr(self, name)!r}"
        for name in ("canary_grow_at", "canary_activate_at", "guard_at"):
            if not 0.5 <= getattr(self, name) < 1:
                found[name] = f"is a probability from 0.5 to below 1, not {getattr(self, name)!r}"
        if not 0 < self.canary_share <= 1:
            found["canary_share"] = f"must lie between 0 and 1, not {self.canary_share!r}"
        elif not self.canary_share <= self.canary_max_share <= 1:
            found["canary_max_share"] = (
                f"must lie between canary_share ({self.canary_share:g}) and 1, not {self.canary_max_share!r}"
            )
        if not (self.guard_latency == 0 or self.guard_latency >= 1):
            found["guard_latency"] = f"is a ratio of at least 1, or 0 for no guard of latency, not {self.guard_latency!r}"
        return found


def gate_verdict(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    """Better, or not worse by more than the margin that its savings buy, both by the paired interval.

    >>> evidence = Evidence(candidate="b", incumbent="a", n=80, difference=0.2, low=0.1, high=0.3)
    >>> print(gate_verdict(evidence, Thresholds()).reason)
    b is better than a by 0.200 (95 % interval 0.100 to 0.300, 80 questions with gold answers).
    >>> fast = {"candidate_latency_ms": 2, "incumbent_latency_ms": 8}
    >>> from dataclasses import replace
    >>> cheap = replace(evidence, difference=0.0, low=-0.02, high=0.02, **fast)
    >>> gate_verdict(cheap, Thresholds()).outcome, gate_verdict(replace(cheap, n=3), Thresholds()).outcome
    (<Outcome.PASS: 'pass'>, <Outcome.NEEDS_HUMAN: 'needs_human'>)
    """
    margin = thresholds.gate_margin * evidence.saving
    figures = asdict(evidence) | {"saving": round(evidence.saving, 6), "margin": round(margin, 6)}
    if collect := _missing(evidence, thresholds.gate_references):
        return Verdict(outcome=Outcome.NEEDS_HUMAN, reason=collect, figures=figures)
    told = f"95 % interval {evidence.low:.3f} to {evidence.high:.3f}, {_questions(evidence)}"
    bought = f"by more than {margin:.3f}, which the {100 * evidence.saving:.0f} % that it saves in cost and time buy"
    candidate, incumbent = evidence.candidate, evidence.incumbent
    if evidence.low > 0:
        reason = f"{candidate} is better than {incumbent} by {evidence.difference:.3f} ({told})."
        return Verdict(outcome=Outcome.PASS, reason=reason, figures=figures)
    if margin > 0 and evidence.low >= -margin:
        reason = f"{candidate} is not worse than {incumbent} {bought}: {evidence.difference:+.3f} ({told})."
        return Verdict(outcome=Outcome.PASS, reason=reason, figures=figures)
    if evidence.high < -margin:
        reason = f"{candidate} is worse than {incumbent}: {evidence.difference:+.3f} ({told})."
    elif margin > 0:
        reason = f"{candidate} may be worse than {incumbent} {bought}: {evidence.difference:+.3f} ({told})."
    else:
        reason = (
            f"{candidate} is not shown to be better than {incumbent}: {evidence.difference:+.3f} ({told}), and it saves "
            "neither cost nor time that would excuse it."
        )
    return Verdict(outcome=Outcome.REJECT, reason=reason, figures=figures)


def _missing(evidence: Evidence, needed: int) -> str:
    """What a person has to collect before anything can be said; empty if nothing."""
    if evidence.references == "judge" and not evidence.judge_calibrated:
        return (
            f"The judge that compared {evidence.candidate} with {evidence.incumbent} is not calibrated, and nothing is "
            "promoted on its word. Collect at least 50 ratings by people of answers that it judged, or questions with gold "
            "answers, until the admin's page Judges says calibrated."
        )
    if evidence.n >= needed:
        return ""
    rest = needed - evidence.n
    have = f"{evidence.candidate} and {evidence.incumbent} can be compared on {_questions(evidence)}; {needed} are needed"
    if evidence.references == "corrections":
        return f"{have}. Collect {rest} more corrections: rate answers and write what they should have been."
    if evidence.references == "judge":
        return f"{have}. Collect {rest} more questions, for instance from the log."
    return f"{have}. Collect {rest} more: questions with gold answers in the eval set, or people's corrections."


def _questions(evidence: Evidence) -> str:
    kind = {"gold": "with gold answers", "corrections": "with people's corrections", "judge": "scored by a calibrated judge"}
    return f"{evidence.n} question{'' if evidence.n == 1 else 's'} {kind[evidence.references]}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a variant did on traffic. ratings: {category: (n, sum of rewards)}. traffic: its interactions, failures and
    latencies, None where nobody looked."""

    name: str
    ratings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    traffic: Sums | None = None

    @property
    def n(self) -> float:
        return sum(n for n, _ in self.ratings.values())

    @property
    def total(self) -> float:
        return sum(total for _, total in self.ratings.values())


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A canary beside its incumbent, over the canary's own mix of categories. worse: P(lower by more than the margin)."""

    n: int
    mean: float | None
    incumbent_mean: float | None
    incumbent_n: int
    worse: float


def standing(canary: Record, incumbent: Record, margin: float) -> Standing:
    """The incumbent's mean in each category (shrunk to its overall mean) is weighted as the canary's ratings are, so that
    harder questions are not taken for a worse canary. The canary's Beta posterior starts from PRIOR ratings at that mean; a
    reward r counts as r successes and 1 - r failures, which overstates the spread of rewards between 0 and 1.
    """
    overall = (incumbent.total + 1) / (incumbent.n + 2)
    n = canary.n
    expected = spread = 0.0
    for category, (here, _) in (canary.ratings or {"": (1.0, 0.0)}).items():
        weight = here / (n or 1.0)
        pulls, total = incumbent.ratings.get(category, (0.0, 0.0))
        mean = (total + SHRINK * overall) / (pulls + SHRINK)
        expected += weight * mean
        spread += weight**2 * mean * (1 - mean) / (pulls + SHRINK)
    expected = min(max(expected, 1e-6), 1 - 1e-6)
    return Standing(
        n=round(n),
        mean=canary.total / n if n else None,
        incumbent_mean=expected if incumbent.n else None,
        incumbent_n=round(incumbent.n),
        worse=_lower_by(margin, PRIOR * expected + canary.total, PRIOR * (1 - expected) + n - canary.total, expected, spread),
    )


def _lower_by(margin: float, alpha: float, beta: float, mean: float, variance: float) -> float:
    """P(X < Y - margin), X ~ Beta(alpha, beta), Y ~ Beta with this mean and variance: the average over Y's quantiles."""
    from scipy.special import betainc, betaincinv  # here, so that a web process that only routes does not load scipy

    size = max(mean * (1 - mean) / max(variance, 1e-9) - 1, 1e-3)
    others = betaincinv(mean * size, (1 - mean) * size, _LEVELS)
    return float(betainc(max(alpha, 1e-9), max(beta, 1e-9), np.clip(others - margin, 0.0, 1.0)).mean())


def canary_verdict(canary: Record, incumbent: Record, share: float, thresholds: Thresholds) -> Verdict:
    """What becomes of a canary that has at most this share of the traffic: rolled back, grown, activated or left alone.

    >>> incumbent = Record(name="a", ratings={"factual": (400, 160)})
    >>> [canary_verdict(Record(name="b", ratings={"factual": (n, total)}), incumbent, share, Thresholds()).outcome.value
    ...  for n, total, share in ((20, 0, 0.1), (30, 24, 0.1), (30, 24, 0.2), (12, 4, 0.2))]
    ['roll_back', 'grow', 'activate', 'hold']
    """
    now = standing(canary, incumbent, thresholds.guard_margin)
    figures: dict[str, Any] = asdict(now) | {"share": share, "margin": thresholds.guard_margin}
    figures["worse"] = round(now.worse, 6)
    for broken in (_errors, _latency):
        reason, seen = broken(canary, incumbent, thresholds)
        figures |= seen
        if reason:
            return Verdict(outcome=Outcome.ROLL_BACK, reason=reason, figures=figures)
    if not now.n:
        return Verdict(outcome=Outcome.HOLD, reason=f"{canary.name} has no rated answer yet.", figures=figures)
    beside = f"{canary.name} has a mean of {now.mean:.3f} over {now.n} ratings"
    if now.incumbent_mean is None:
        return Verdict(outcome=Outcome.HOLD, reason=f"{beside}; {incumbent.name} has none to compare it with.", figures=figures)
    beside += f", {incumbent.name} {now.incumbent_mean:.3f} on such questions"
    if now.n >= thresholds.guard_ratings and now.worse >= thresholds.guard_at:
        reason = f"{beside}: worse by more than {thresholds.guard_margin:g} with probability {now.worse:.3f}."
        return Verdict(outcome=Outcome.ROLL_BACK, reason=reason, figures=figures)
    sure = f"{beside}: not worse by more than {thresholds.guard_margin:g} with probability {1 - now.worse:.3f}"
    bigger = next_share(share, thresholds)
    # Each step takes as many ratings as the one before it, so that no lucky streak runs through all of them.
    due = now.n >= thresholds.canary_ratings * (1 + _steps(share, thresholds))
    if bigger > share and due and 1 - now.worse >= thresholds.canary_grow_at:
        figures["next_share"] = bigger
        reason = f"{sure}. Its largest share grows from {100 * share:.0f} % to {100 * bigger:.0f} %."
        return Verdict(outcome=Outcome.GROW, reason=reason, figures=figures)
    if bigger <= share and due and 1 - now.worse >= thresholds.canary_activate_at:
        return Verdict(outcome=Outcome.ACTIVATE, reason=f"{sure}.", figures=figures)
    return Verdict(outcome=Outcome.HOLD, reason=f"{sure}. More ratings decide.", figures=figures)


def next_share(share: float, thresholds: Thresholds) -> float:
    """Twice the share, up to the cap.

    >>> [next_share(share, Thresholds(canary_share=0.05)) for share in (0.05, 0.1, 0.15, 0.2)]
    [0.1, 0.2, 0.2, 0.2]
    """
    return max(share, min(2 * share, thresholds.canary_max_share))


def _steps(share: float, thresholds: Thresholds) -> int:
    """How often the share has grown."""
    return max(0, math.ceil(math.log2(max(share, 1e-9) / thresholds.canary_share) - 1e-9))


def _errors(canary: Record, incumbent: Record, thresholds: Thresholds) -> tuple[str, dict[str, Any]]:
    if canary.traffic is None or incumbent.traffic is None or not canary.traffic.interactions:
        return "", {}
    (failed, asked), (other_failed, other_asked) = (
        (one.traffic.failed, one.traffic.interactions) for one in (canary, incumbent)
    )
    rate = (other_failed + 0.5) / (other_asked + 1)
    above = 1 - _lower_by(-thresholds.guard_errors, 2 * rate + failed, 2 * (1 - rate) + asked - failed, rate, 1e-9)
    figures = {
        "failed": failed, "answers": asked, "incumbent_failed": other_failed, "incumbent_answers": other_asked,
        "errors_worse": round(above, 6),
    }  # fmt: skip
    if asked < thresholds.guard_ratings or above < thresholds.guard_at:
        return "", figures
    told = f"{failed} of {asked} answers of {canary.name} failed, of {incumbent.name} {other_failed} of {other_asked}"
    return f"{told}: more often by over {thresholds.guard_errors:g} with probability {above:.3f}.", figures


def _latency(canary: Record, incumbent: Record, thresholds: Thresholds) -> tuple[str, dict[str, Any]]:
    """The lower end of the 95 % interval of the canary's 95th percentile (by order statistics) against the incumbent's."""
    if canary.traffic is None or incumbent.traffic is None or not thresholds.guard_latency:
        return "", {}
    n, other = canary.traffic.answered, percentile(incumbent.traffic.latency, 0.95)
    if min(n, incumbent.traffic.answered) < FEWEST_LATENCIES or not other:
        return "", {}
    rank = math.floor(0.95 * n - 1.96 * math.sqrt(n * 0.95 * 0.05))
    low, own = at_rank(canary.traffic.latency, max(rank, 1)), percentile(canary.traffic.latency, 0.95)
    figures = {"latency_ms_p95": round(own, 1), "incumbent_latency_ms_p95": round(other, 1)}
    if low <= thresholds.guard_latency * other:
        return "", figures
    reason = (
        f"{canary.name} is slow: its 95th percentile is {own:,.0f} ms (at least {low:,.0f} ms), that of {incumbent.name} "
        f"{other:,.0f} ms; at most {thresholds.guard_latency:g} times as long is allowed."
    )
    return reason, figures
