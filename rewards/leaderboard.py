"""How the agents do: mean reward with its interval, probability of being best, share of the traffic, latency, cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum, Window
from django.db.models.functions import RowNumber

from agents.models import AgentVariant
from agents.selectors import live_variants
from rewards.bandit import ArmEvidence
from rewards.bandit.posterior import beta_posterior, credible_interval, probability_best
from rewards.models import BanditArm, Interaction, Pull, Reward
from rewards.selectors import active_policy

# Fewer rated answers leave a mean near 0.5 uncertain by more than 0.2 either way, which ranks nobody.
ENOUGH = 20

Key = tuple[str | None, int]  # (category or None for all of them, variant id)


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """An agent's revision in one category, or overall (category None).

    n, mean: rated answers that count, and their mean reward. low, high: 95 % credible interval of the mean; None without a
    rating. probability_best: among the agents that take traffic now, by ratings alone, None for the others.
    traffic_share: of the interactions here, comparisons left out. latency_ms_*: of answers given. cost_usd: per interaction.
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


@dataclass(kw_only=True)
class _Tally:
    n: int = 0
    total: float = 0.0
    interactions: int = 0
    cost: float = 0.0


def leaderboard(category: str | None = None, since: datetime | None = None) -> list[LeaderboardRow]:
    """Rows of one category, or (None) overall and then of every category; best mean first.

    `since` takes only what was asked from then on. Seven queries at most, whatever the number of agents and categories.
    """
    tallies = _tallies(category, since)
    traffic = _traffic(category, since)
    latency = _percentiles(traffic, "category", "variant_id")
    if category is None:
        latency |= {(None, variant): value for (variant,), value in _percentiles(traffic, "variant_id").items()}
    live = {variant.pk for variant in live_variants()}
    variants = AgentVariant.objects.only("name", "revision").in_bulk(live | {variant for _, variant in tallies})
    scopes = [category] if category else [None, *sorted({name for name, _ in tallies if name is not None})]
    return [row for scope in scopes for row in _scope(scope, tallies, latency, variants, live)]


def stats(since: datetime | None = None) -> dict[str, Any]:
    """Counts and means overall, by category and by arm, and the policy that routes; a fixed number of queries."""
    policy = active_policy()
    traffic = _traffic(None, since)
    counts = traffic.aggregate(
        interactions=Count("*"), failed=Count("state", filter=Q(state=Interaction.State.FAILED)), cost_usd=Sum("cost_usd")
    )
    by_category: dict[str, _Tally] = defaultdict(_Tally)
    overall = _Tally()
    arms = []
    tallies = _tallies(None, since)
    variants = AgentVariant.objects.only("name", "revision").in_bulk({variant for _, variant in tallies})
    for (category, variant), tally in tallies.items():
        if category is None:
            continue
        for into in (by_category[category], overall):
            _merge(into, tally)
        arms.append(
            {
                "category": category,
                "agent": variants[variant].name,
                "revision": variants[variant].revision,
                "interactions": tally.interactions,
                "n": tally.n,
                "total": tally.total,
                "mean": _mean(tally),
            }
        )
    ratings = Reward.objects.filter(**({"interaction__created_at__gte": since} if since else {}))
    p50, p95 = _percentiles(traffic).get((), (None, None))
    return {
        "since": since.isoformat() if since else None,
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
            "interactions": counts["interactions"],
            "failed": counts["failed"],
            "n": overall.n,
            "mean_reward": _mean(overall),
            "ratings": ratings.count(),
            "latency_ms_p50": p50,
            "latency_ms_p95": p95,
            "cost_usd": counts["cost_usd"] or 0.0,
        },
        "categories": {
            name: {"interactions": tally.interactions, "n": tally.n, "mean_reward": _mean(tally)}
            for name, tally in sorted(by_category.items())
        },
        "arms": sorted(arms, key=lambda arm: (arm["category"], arm["agent"], -arm["revision"])),
    }


def _traffic(category: str | None, since: datetime | None) -> QuerySet[Interaction]:
    traffic = Interaction.objects.exclude(mode=Interaction.Mode.COMPARE).order_by()
    if category is not None:
        traffic = traffic.filter(category=category)
    return traffic.filter(created_at__gte=since) if since else traffic


def _tallies(category: str | None, since: datetime | None) -> dict[Key, _Tally]:
    """What was learned and asked, by (category, variant); with all categories also their sums, under category None."""
    if since is None:
        learned = BanditArm.objects.order_by().values_list("category", "variant_id", "pulls", "total")
    else:
        pulls = Pull.objects.filter(at__gte=since).order_by()
        learned = pulls.values_list("arm__category", "arm__variant_id").annotate(n=Count("*"), total=Sum("value"))
    tallies: dict[Key, _Tally] = defaultdict(_Tally)
    for name, variant, n, total in learned:
        if category in (None, name):
            tallies[name, variant].n, tallies[name, variant].total = round(n), min(max(total, 0.0), n)
    asked = _traffic(category, since).values_list("category", "variant_id").annotate(n=Count("*"), cost=Sum("cost_usd"))
    for name, variant, n, cost in asked:
        tallies[name, variant].interactions, tallies[name, variant].cost = n, cost
    if category is None:
        for (_, variant), tally in list(tallies.items()):
            _merge(tallies[None, variant], tally)
    return dict(tallies)


def _merge(into: _Tally, tally: _Tally) -> None:
    into.n += tally.n
    into.total += tally.total
    into.interactions += tally.interactions
    into.cost += tally.cost


def _scope(
    scope: str | None,
    tallies: dict[Key, _Tally],
    latency: dict[tuple[Any, ...], tuple[float, float]],
    variants: dict[int, AgentVariant],
    live: set[int],
) -> list[LeaderboardRow]:
    here = sorted(live | {variant for name, variant in tallies if name == scope})
    if not here:
        return []
    rows = [tallies.get((scope, variant), _Tally()) for variant in here]
    alphas, betas = beta_posterior(ArmEvidence(pulls=[row.n for row in rows], totals=[row.total for row in rows]))
    lows, highs = credible_interval(alphas, betas)
    competing = [i for i, variant in enumerate(here) if variant in live]
    best: dict[int, float] = {}
    if competing:
        best = dict(zip(competing, map(float, probability_best(alphas[competing], betas[competing])), strict=True))
    interactions = sum(row.interactions for row in rows)
    board = []
    for i, (variant, row) in enumerate(zip(here, rows, strict=True)):
        mean = _mean(row)
        p50, p95 = latency.get((scope, variant), (None, None))
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
                latency_ms_p50=p50,
                latency_ms_p95=p95,
                cost_usd=row.cost / row.interactions if row.interactions else None,
                enough=row.n >= ENOUGH,
            )
        )
    return sorted(board, key=lambda row: (row.mean is None, -(row.mean or 0.0), row.agent, -row.revision))


def _mean(tally: _Tally) -> float | None:
    return tally.total / tally.n if tally.n else None


def _percentiles(traffic: QuerySet[Interaction], *group: str) -> dict[tuple[Any, ...], tuple[float, float]]:
    """{group's values: (p50, p95)} of the answers' latency in ms, by nearest rank, sorted inside the database."""
    answered = traffic.filter(state=Interaction.State.ANSWERED).annotate(
        rank=Window(RowNumber(), partition_by=[F(name) for name in group] or None, order_by="latency_ms"),
        size=Window(Count("*"), partition_by=[F(name) for name in group] or None),
    )
    ranked = answered.filter(Q(rank=(F("size") * 50 + 99) / 100) | Q(rank=(F("size") * 95 + 99) / 100))
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for *key, value in ranked.values_list(*group, "latency_ms"):
        found[tuple(key)].append(value)
    return {key: (min(values), max(values)) for key, values in found.items()}
