"""Findings on agents: those that are worse, that changed, or whose prior the ratings contradict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rewards.findings.base import LEAST, Action, Finding, Log, Revision, collect, sides, signed
from rewards.findings.effects import cell_means, effect

PAUSE_BELOW, RETIRE_BELOW = 0.05, 0.01  # probability of being the best in any category


def arms(log: Log) -> Iterator[Finding]:
    """Of those that take traffic now, among themselves."""
    competing = [index for index, agent in enumerate(log.agents) if agent in log.live and log.live[agent].takes]
    among = np.isin(log.agent, competing)
    chances = _chances(log, competing)
    for index in competing:
        agent = log.agents[index]
        for scope, category in [(None, "all"), *enumerate(log.categories)]:
            rows = among if scope is None else among & (log.category == scope)
            inside = log.agent[rows] == index
            # Worse on the whole, but perhaps the best at something: that is said of the categories, one by one.
            if not sides(inside) or (scope is None and _chance(chances, agent, None) >= PAUSE_BELOW):
                continue
            found = effect(inside.astype(float), log.reward[rows], log.category[rows])
            if found is None:
                continue
            n, mean = int(inside.sum()), float(log.reward[rows][inside].mean())
            where = "on all questions" if scope is None else f"on {category} questions"
            yield Finding(
                key=f"arm:{category}:{agent}",
                kind="arm",
                title=f"{agent} is worse than the other agents {where}",
                detail=f"Mean reward {mean:.2f}, {signed(found.value)} against the others on the same kind of question; "
                f"probability of being the best there {_share(_chance(chances, agent, scope))}.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=n,
                p=found.p_below,
                action=_arm_action(log.live[agent], agent, scope, category, mean, _chance(chances, agent, scope)),
            )


def _arm_action(revision: Revision, agent: str, scope: int | None, category: str, mean: float, chance: float) -> Action | None:
    """A pause and a prior are the whole agent's, so a canary is retired or left to its guard."""
    if scope is None and chance < RETIRE_BELOW:
        values = {"agent_name": revision.agent, "revision": revision.revision}
        return Action(kind="retire", label=f"Retire {agent}", values=values)
    if revision.canary:
        return None
    if scope is None:
        return Action(kind="pause", label=f"Pause {agent}", values={"agent_name": agent})
    pulls = float(LEAST)
    values = {"category": category, "agent_name": agent, "pulls": pulls, "total": round(pulls * mean, 2)}
    return Action(kind="prior", label=f"Set its prior there to {mean:.2f}, worth {pulls:g} pulls", values=values)


def _chances(log: Log, competing: Sequence[int]) -> dict[tuple[int, str], float]:
    """(category, agent) -> probability of being the best there, of competing agents with LEAST answers, by Beta posteriors."""
    from rewards.bandit.posterior import probability_best

    chances = {}
    for category in range(len(log.categories)):
        rows = log.category == category
        counts = np.bincount(log.agent[rows], minlength=len(log.agents))
        sums = np.bincount(log.agent[rows], log.reward[rows], minlength=len(log.agents))
        enough = np.array([index for index in competing if counts[index] >= LEAST], dtype=int)
        if len(enough) > 1:
            best = probability_best(1 + sums[enough], 1 + counts[enough] - sums[enough])
            chances |= {(category, log.agents[i]): float(chance) for i, chance in zip(enough, best, strict=True)}
    return chances


def _chance(chances: dict[tuple[int, str], float], agent: str, scope: int | None) -> float:
    return max((chance for (where, who), chance in chances.items() if who == agent and scope in (None, where)), default=1.0)


def _share(value: float) -> str:
    return "under 1 %" if value < 0.01 else f"at most {100 * value:.0f} %"


def drift(log: Log) -> Iterator[Finding]:
    """One change of the mean at an unknown time: the largest cumulated deviation (CUSUM; Page, 1954), whose limit is the
    supremum of a Brownian bridge (Kolmogorov's distribution).

    The size of the change is measured on every second answer at the place that the others choose: at the place that the same
    answers choose it would look larger than it is."""
    from scipy.special import kolmogorov

    for index, agent in enumerate(log.agents):
        rows = np.flatnonzero(log.agent == index)
        n = len(rows)
        if n < 5 * LEAST or agent not in log.live:
            continue
        centred = log.reward[rows] - cell_means(log.reward[rows], log.category[rows])
        spread = float(centred.std())
        sums = np.abs(np.cumsum(centred))
        if spread < 1e-9:
            continue
        change = 2 * int(np.argmax(np.abs(np.cumsum(centred[::2] - centred[::2].mean()))[:-1]))
        after = np.arange(n) > change
        judged = rows[1::2]
        later = after[1::2]
        since = {"agent_name": log.live[agent].agent, "newest": int(after.sum())}
        enough = 2 * min(int(later.sum()), int((~later).sum())) >= LEAST
        found = effect(later.astype(float), log.reward[judged], log.category[judged]) if enough else None
        if found is None:
            continue
        better = found.value > 0
        before_mean, after_mean = (log.reward[judged][part].mean() for part in (~later, later))
        yield Finding(
            key=f"drift:{agent}",
            kind="drift",
            title=f"{agent} became {'better' if better else 'worse'} after about its answer {change + 1} of {n}",
            detail=f"Mean reward {before_mean:.2f} before and {after_mean:.2f} after, on every second answer; the place was "
            "found on the others, so that the difference is not flattered. A policy that forgets follows such changes faster.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=n,
            p=float(kolmogorov(sums.max() / (spread * math.sqrt(n)))),
            action=None if better else collect(since, f"answers of {agent} since"),
        )


def priors(log: Log) -> Iterator[Finding]:
    from scipy.stats import t

    for (category, agent), (pulls, total) in log.priors.items():
        if pulls <= 0 or category not in log.categories or agent not in log.agents or agent not in log.live:
            continue
        rows = (log.category == log.categories.index(category)) & (log.agent == log.agents.index(agent))
        n, assumed = int(rows.sum()), total / pulls
        if n < LEAST:
            continue
        values = log.reward[rows]
        # Two more values at the ends of the scale keep rewards that are all alike from looking certain (Agresti & Coull, 1998).
        widened = np.concatenate([values, [0.0, 1.0]])
        error = float(widened.std(ddof=1)) / math.sqrt(len(widened))
        mean = float(values.mean())
        half = float(t.ppf(0.975, n - 1)) * error
        total_now = round(pulls * mean, 2)
        values_now = {"category": category, "agent_name": agent, "pulls": pulls, "total": total_now}
        yield Finding(
            key=f"prior:{category}:{agent}",
            kind="prior",
            title=f"The prior of {agent} on {category} questions is too {'high' if mean < assumed else 'low'}",
            detail=f"It assumes {assumed:.2f}, worth {pulls:g} pulls; {n} ratings have a mean of {mean:.2f}.",
            estimate=mean - assumed,
            low=mean - half - assumed,
            high=mean + half - assumed,
            n=n,
            p=float(2 * t.sf(abs(mean - assumed) / error, n - 1)),
            action=Action(kind="prior", label=f"Set the prior to {mean:.2f}, worth {pulls:g} pulls", values=values_now),
        )
