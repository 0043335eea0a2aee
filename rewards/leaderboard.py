"""How the agents do: mean reward with its interval, probability of being best, share of the traffic, latency, cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from agents.models import AgentVariant
from agents.selectors import live_variants
from rewards.bandit import ArmEvidence
from rewards.bandit.posterior import beta_posterior, credible_interval, probability_best
from rewards.rollup.read import log_sums
from rewards.rollup.spans import HOUR, start_of
from rewards.rollup.sums import Sums, percentile
from rewards.selectors import active_policy, taking_variants

# Fewer rated answers leave a mean near 0.5 uncertain by more than 0.2 either way, which ranks nobody.
ENOUGH = 20

Key = tuple[str | None, int]  # (category or None for all of them, variant id)


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """An agent's revision in one category, or overall (category None).

    n, mean: rated answers that count, and their mean reward. low, high: 95 % credible interval of the mean; None without a
    rating. probability_best: among the agents that take traffic now, by ratings alone, None for the
    others, paused ones among them.
    traffic_share: of the interactions here, comparisons left out. latency_ms_*: of answers given, within 1 %.
    cost_usd: per interaction.
    enough: whether n allows a judgement (ENOUGH).
    """

    agent: str
    revision: int
    variant_id: int
    category: str | None
    n: int
    mean: float | None
    low: float | None
    high: float | None
    probability_best: float | None
    traffic_share: float
    interactions: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    cost_usd: float | None
    enough: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaderboard(
    category: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> list[LeaderboardRow]:
    """Rows of one category, or (None) overall and then of every category; best mean first.

    `since` and `until` take only what was asked between them, both taken back to the full hour. Five queries, and none of them
    reads the log itself.
    """
    sums = _scoped(log_sums(since, until, category), overall=category is None)
    answering = live_variants()
    live, taking = ({variant.pk for variant in some} for some in (answering, taking_variants(answering)))
    variants = AgentVariant.objects.only("name", "revision").in_bulk(live | {variant for _, variant in sums})
    scopes = [category] if category else [None, *sorted({name for name, _ in sums if name is not None})]
    return [row for scope in scopes for row in _scope(scope, sums, variants, live, taking)]


def stats(since: datetime | None = None, until: datetime | None = None) -> dict[str, Any]:
    """Counts and means overall, by category and by arm, and the policy that routes.

    `since` and `until` take only what was asked between them, both taken back to the full hour.
    """
    policy = active_policy()
    arms = log_sums(since, until)
    variants = AgentVariant.objects.only("name", "revision").in_bulk({variant for _, variant in arms})
    by_category: dict[str, Sums] = defaultdict(Sums)
    overall = Sums()
    for (category, _), sums in arms.items():
        by_category[category].add(sums)
        overall.add(sums)
    rows = [
        {
            "category": category,
            "agent": variants[variant].name,
            "revision": variants[variant].revision,
            "interactions": sums.interactions,
            "n": sums.n,
            "total": sums.total,
            "mean": sums.mean,
        }
        for (category, variant), sums in arms.items()
        if sums.interactions or sums.n
    ]
    return {
        "since": start_of(HOUR, since).isoformat() if since else None,
        "until": start_of(HOUR, until).isoformat() if until else None,
        "policy": {
            "name": policy.name,
            "kind": policy.kind,
            "revision": policy.revision,
            "parameters": policy.parameters,
            "min_share": policy.min_share,
            "judges_count": policy.judges_count,
            "learn_since": policy.learn_since.isoformat() if policy.learn_since else None,
        },
        "overall": {
            "interactions": overall.interactions,
            "failed": overall.failed,
            "n": overall.n,
            "mean_reward": overall.mean,
            "ratings": overall.ratings,
            "latency_ms_p50": percentile(overall.latency, 0.5),
            "latency_ms_p95": percentile(overall.latency, 0.95),
            "cost_usd": overall.cost_usd,
        },
        "categories": {
            name: {"interactions": sums.interactions, "n": sums.n, "mean_reward": sums.mean}
            for name, sums in sorted(by_category.items())
            if sums.interactions or sums.n
        },
        "arms": sorted(rows, key=lambda arm: (arm["category"], arm["agent"], -arm["revision"])),
    }


def _scoped(arms: dict[tuple[str, int], Sums], *, overall: bool) -> dict[Key, Sums]:
    """The same by (category, variant), and with `overall` the sums over categories under None. Arms with nothing but ratings of
    comparisons stay out."""
    scoped: dict[Key, Sums] = {}
    for (category, variant), sums in arms.items():
        if sums.interactions or sums.n:
            scoped[category, variant] = sums
            if overall:
                scoped.setdefault((None, variant), Sums()).add(sums)
    return scoped


def _scope(
    scope: str | None, sums: dict[Key, Sums], variants: dict[int, AgentVariant], live: set[int], taking: set[int]
) -> list[LeaderboardRow]:
    here = sorted(live | {variant for name, variant in sums if name == scope})
    if not here:
        return []
    rows = [sums.get((scope, variant), Sums()) for variant in here]
    totals = [(row.mean or 0.0) * row.n for row in rows]
    alphas, betas = beta_posterior(ArmEvidence(pulls=[row.n for row in rows], totals=totals))
    lows, highs = credible_interval(alphas, betas)
    competing = [i for i, variant in enumerate(here) if variant in taking]
    best: dict[int, float] = {}
    if competing:
        best = dict(zip(competing, map(float, probability_best(alphas[competing], betas[competing])), strict=True))
    interactions = sum(row.interactions for row in rows)
    board = []
    for i, (variant, row) in enumerate(zip(here, rows, strict=True)):
        mean = row.mean
        board.append(
            LeaderboardRow(
                agent=variants[variant].name,
                revision=variants[variant].revision,
                variant_id=variant,
                category=scope,
                n=row.n,
                mean=mean,
                # With few ratings, all alike, the posterior's interval leaves their mean out; it is stretched to it
                # (as Brown, Cai & DasGupta, 2001, do at the boundary).
                low=None if mean is None else min(float(lows[i]), mean),
                high=None if mean is None else max(float(highs[i]), mean),
                probability_best=best.get(i),
                traffic_share=row.interactions / interactions if interactions else 0.0,
                interactions=row.interactions,
                latency_ms_p50=percentile(row.latency, 0.5),
                latency_ms_p95=percentile(row.latency, 0.95),
                cost_usd=row.cost_usd / row.interactions if row.interactions else None,
                enough=row.n >= ENOUGH,
            )
        )
    return sorted(board, key=lambda row: (row.mean is None, -(row.mean or 0.0), row.agent, -row.revision))
