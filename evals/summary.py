"""A run's figures: per agent with intervals, paired comparisons with words. Pure: rows in, plain dicts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evals.statistics import compare, mean_interval


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One agent on one question; `score` is None where unscored."""

    question: str
    agent: str
    score: float | None
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    failed: bool
    judge_tokens: int = 0
    judge_cost_usd: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """The judge's preference between an agent and the baseline on one question; `outcome` is "" where it gave none."""

    agent: str
    outcome: str
    consistent: bool
    judge_tokens: int = 0
    judge_cost_usd: float = 0.0


def summarise(
    rows: Sequence[ResultRow], agents: Sequence[str], baseline: str | None = None, pairs: Sequence[PairRow] = ()
) -> dict[str, Any]:
    """{"questions", "agents", "comparisons", "pairwise"}, in the order of `agents`; the first is the default baseline."""
    by_agent: dict[str, dict[str, ResultRow]] = {agent: {} for agent in agents}
    for row in rows:
        by_agent[row.agent][row.question] = row
    winners = winners_of(rows)
    return {
        "questions": len({row.question for row in rows}),
        "agents": [_agent(agent, list(by_agent[agent].values()), winners) for agent in agents],
        "comparisons": _comparisons(by_agent, baseline or agents[0]),
        "pairwise": _preferences(by_agent, baseline or agents[0], _by_agent(pairs, agents)),
        "judge_tokens": sum(row.judge_tokens for row in (*rows, *pairs)),
        "judge_cost_usd": round(sum(row.judge_cost_usd for row in (*rows, *pairs)), 6),
    }


def _by_agent(pairs: Sequence[PairRow], agents: Sequence[str]) -> dict[str, list[PairRow]]:
    found = {agent: [pair for pair in pairs if pair.agent == agent] for agent in agents}
    return {agent: rows for agent, rows in found.items() if rows}


def _preferences(
    by_agent: dict[str, dict[str, ResultRow]], baseline: str, pairs: dict[str, list[PairRow]]
) -> list[dict[str, Any]]:
    """Each agent's preferences, with Holm over the agents compared; `unscored`: questions asked of both without a verdict."""
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests

    p_values: dict[str, float] = {}
    for agent, rows in pairs.items():
        wins, losses = _count(rows, "win"), _count(rows, "loss")
        if wins + losses:
            p_values[agent] = float(binomtest(wins, wins + losses).pvalue)
    adjusted = multipletests(list(p_values.values()), method="holm")[1] if p_values else []
    holm = dict(zip(p_values, map(float, adjusted), strict=True))
    return [
        _preference(
            agent, baseline, rows, asked=len(by_agent[agent].keys() & by_agent[baseline].keys()),
            p_value=p_values.get(agent), p_adjusted=holm.get(agent),
        )
        for agent, rows in pairs.items()
    ]  # fmt: skip


def _count(rows: Sequence[PairRow], outcome: str) -> int:
    return sum(row.outcome == outcome for row in rows)


def _preference(
    agent: str, baseline: str, rows: Sequence[PairRow], *, asked: int, p_value: float | None, p_adjusted: float | None
) -> dict[str, Any]:
    """Wins, ties and losses of an agent before the judge, by the exact sign test; `position_bias` is the share of the
    comparisons in which swapping the answers swapped the preference (they count as ties)."""
    judged = [row for row in rows if row.outcome]
    wins, losses = _count(rows, "win"), _count(rows, "loss")
    swapped = sum(not row.consistent for row in judged)
    verdict = "is preferred to" if wins > losses else "is less liked than"
    words = (
        f"{agent} {verdict} {baseline}" if p_adjusted is not None and p_adjusted < 0.05 else f"No preference shown for {agent}"
    )
    ties = len(judged) - wins - losses
    bias = f"; in {swapped} of {len(judged)} the order of the answers decided (position bias)" if swapped else ""
    told = f"{wins} wins, {ties} ties, {losses} losses in {len(judged)}{bias} (pairwise: not calibrated)"
    return {
        "agent": agent,
        "baseline": baseline,
        "n": len(judged),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "unscored": max(asked, len(rows)) - len(judged),
        "position_bias": _number(swapped / len(judged)) if judged else None,
        "p_value": None if p_value is None else _number(p_value),
        "p_adjusted": None if p_adjusted is None else _number(p_adjusted),
        "calibrated": False,  # nothing compares preferences with people's or with gold answers
        "judge_tokens": sum(row.judge_tokens for row in rows),
        "judge_cost_usd": round(sum(row.judge_cost_usd for row in rows), 6),
        "sentence": f"{words}: {told}.",
    }


def winners_of(rows: Sequence[ResultRow]) -> dict[str, str | None]:
    """Question -> the one agent with the highest score; None for a tie, for fewer than two scores, or for none."""
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        scores.setdefault(row.question, {})
        if row.score is not None:
            scores[row.question][row.agent] = row.score
    winners: dict[str, str | None] = {}
    for question, given in scores.items():
        best = [agent for agent, score in given.items() if score == max(given.values())]
        winners[question] = best[0] if len(best) == 1 and len(given) > 1 else None
    return winners


def _agent(agent: str, rows: Sequence[ResultRow], winners: dict[str, str | None]) -> dict[str, Any]:
    estimate = mean_interval([math.nan if row.score is None else row.score for row in rows])
    answered = [row for row in rows if not row.failed]
    latency = np.array([row.latency_ms for row in answered])
    names = sorted({name for row in rows for name in row.metrics})
    return {
        "agent": agent,
        "score": _number(estimate.mean),
        "interval": [_number(estimate.low), _number(estimate.high)],
        "n": estimate.n,
        "unscored": estimate.unscored,
        "failed": len(rows) - len(answered),
        "wins": sum(winner == agent for winner in winners.values()),
        "latency_ms_p50": _number(np.quantile(latency, 0.5)) if latency.size else None,
        "latency_ms_p95": _number(np.quantile(latency, 0.95)) if latency.size else None,
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "completion_tokens": sum(row.completion_tokens for row in rows),
        "cost_usd": round(sum(row.cost_usd for row in rows), 6),
        "judge_tokens": sum(row.judge_tokens for row in rows),
        "judge_cost_usd": round(sum(row.judge_cost_usd for row in rows), 6),
        "metrics": {name: _metric([row.metrics[name] for row in rows if name in row.metrics]) for name in names},
    }


def _metric(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": _number(float(np.mean(values))), "n": len(values)}


def _comparisons(by_agent: dict[str, dict[str, ResultRow]], baseline: str) -> list[dict[str, Any]]:
    questions = sorted({question for rows in by_agent.values() for question in rows})
    scores = {agent: [_score(rows.get(question)) for question in questions] for agent, rows in by_agent.items()}
    return [comparison_dict(comparison) for comparison in compare(scores, baseline)]


def comparison_dict(comparison: Any) -> dict[str, Any]:
    """A Comparison as the commands and the API print it."""
    values = asdict(comparison)
    interval = [_number(values.pop("low")), _number(values.pop("high"))]
    numbers = {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}
    return numbers | {"interval": interval, "sentence": comparison.sentence()}


def _score(row: ResultRow | None) -> float:
    return math.nan if row is None or row.score is None else row.score


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
