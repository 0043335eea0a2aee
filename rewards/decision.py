"""Everything in the database that a routing decision depends on, in one query.

The query always returns the policy, the candidates with their predecessors and limits, and a stamp of the evidence: counts,
sums and the newest change of arms, priors and linear arms, added up inside the database. The evidence itself comes along only
where the stamp is not the one that this process has seen last; at 20 agents x 10 categories reading and arranging it costs
more than all the rest of the decision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from django.db import connection

from agents.models import AgentVariant
from rewards.bandit import ArmEvidence, ForwardDecay, Policy
from rewards.models import (
    AgentLimit,
    BanditArm,
    Canary,
    CategoryPin,
    Interaction,
    LearningClock,
    LinearArm,
    PriorReward,
    RoutingPolicy,
)
from rewards.selectors import active_policy
from rewards.services.linear import unpacked


class Member(NamedTuple):
    """A candidate or one of its predecessors."""

    pk: int
    predecessor: int | None
    name: str
    inherit: float
    min_share: float | None
    max_share: float | None
    paused: bool
    incumbent: int | None = None  # of a canary: the variant that gets what its cap leaves over


class Settings(NamedTuple):
    """The active policy, and what else holds for this question. `parameters` is JSON as stored."""

    policy: str
    kind: str
    parameters: str
    min_share: float
    revision: int
    ticks: int
    epoch: float
    pinned: str | None
    sticky_variant: int | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Arms {variant: {category: (weight, total, squares)}}, priors {agent: {category: (pulls, total)}} and linear arms
    {variant: (design, response)} as stored. `prepared` keeps what was made of them for the same candidates."""

    stamp: str
    arms: dict[int, dict[str, tuple[float, float, float]]]
    priors: dict[str, dict[str, tuple[float, float]]]
    linear: dict[int, tuple[str, str]]
    prepared: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecisionState:
    settings: Settings
    family: dict[int, Member]
    evidence: Evidence


_TABLES = {
    name: model._meta.db_table
    for name, model in {
        "variant": AgentVariant, "arm": BanditArm, "prior": PriorReward, "linear": LinearArm, "policy": RoutingPolicy,
        "canary": Canary, "clock": LearningClock, "limit": AgentLimit, "pin": CategoryPin, "interaction": Interaction,
    }.items()
}  # fmt: skip
_STAMP = "CAST(COUNT(*) AS TEXT) || ' ' || COALESCE(CAST(MAX(updated_at) AS TEXT), '')"
# One statement that walks each candidate's predecessors, written out because the query compiler alone costs more than the
# query (0.9 against 0.2 ms with 20 agents) and cannot express the recursion.
_SQL = """
WITH RECURSIVE family(id, name, predecessor_id, inherit, state) AS (
    SELECT id, name, predecessor_id, inherit, state FROM {variant} WHERE id IN ({ids})
    UNION
    SELECT v.id, v.name, v.predecessor_id, v.inherit, v.state FROM {variant} v JOIN family f ON v.id = f.predecessor_id
),
stamp(text) AS MATERIALIZED (
    SELECT (SELECT {counts} || ' ' || COALESCE(CAST(SUM(weight) AS TEXT) || ' ' || CAST(SUM(weighted_total) AS TEXT), '')
            FROM {arm})
    || '/' || (SELECT {counts} || ' ' || COALESCE(CAST(SUM(pulls) AS TEXT) || ' ' || CAST(SUM(total) AS TEXT), '') FROM {prior})
    || '/' || (SELECT {counts} FROM {linear})
)
SELECT NULL, CAST(NULL AS BIGINT), r.name, r.min_share, COALESCE(c.epoch, 0), NULL, {settings}, r.kind,
       CAST(r.parameters AS TEXT), r.revision, COALESCE(c.ticks, 0), p.agent_name,
       CASE WHEN r.sticky_sessions AND %s <> '' THEN (
           SELECT variant_id FROM {interaction} WHERE session = %s AND mode IN ('bandit', 'sticky') AND state = 'answered'
           ORDER BY created_at DESC LIMIT 1
       ) END,
       s.text
FROM stamp s LEFT JOIN {policy} r ON r.active LEFT JOIN {clock} c ON c.id = 1 LEFT JOIN {pin} p ON p.category = %s
UNION ALL
SELECT f.id, f.predecessor_id, f.name, f.inherit, COALESCE(k.min_share, l.min_share),
       CASE WHEN l.max_share < k.max_share THEN l.max_share ELSE COALESCE(k.max_share, l.max_share) END,
       CASE WHEN l.paused OR k.paused THEN 1 ELSE 0 END, NULL, NULL, NULL, NULL, NULL, k.incumbent_id, NULL
FROM family f LEFT JOIN {limit} l ON l.agent_name = f.name LEFT JOIN {canary} k ON k.variant_id = f.id AND f.state = 'canary'
UNION ALL
SELECT variant_id, NULL, category, weight, weighted_total, weighted_squares, {arm_mark}, {nothing}
FROM {arm} WHERE (SELECT text FROM stamp) <> %s
UNION ALL
SELECT NULL, NULL, agent_name, pulls, total, NULL, {prior_mark}, category, {nothing_more}
FROM {prior} WHERE (SELECT text FROM stamp) <> %s
UNION ALL
SELECT variant_id, NULL, design, NULL, NULL, NULL, {linear_mark}, response, {nothing_more}
FROM {linear} WHERE (SELECT text FROM stamp) <> %s
"""
_SETTINGS, _ARM, _PRIOR, _LINEAR = -1, -2, -3, -4  # where a member of the family has 0, or 1 if it is paused
_MARKS = {"settings": _SETTINGS, "arm_mark": _ARM, "prior_mark": _PRIOR, "linear_mark": _LINEAR}
_NOTHING = {"nothing": ", ".join(["NULL"] * 7), "nothing_more": ", ".join(["NULL"] * 6)}
PREPARED_MOST = 1000

_seen: dict[str, Evidence] = {}  # by the connection's alias; replaced whole, so that threads need no lock


def decision_state(category: str, variants: Sequence[AgentVariant], session: str = "") -> DecisionState:
    """Policy, limits and evidence for a choice among saved `variants` in one query."""
    known = _seen.get(connection.alias)
    rows = _rows(category, variants, session, known)
    first = next(row for row in rows if row[6] == _SETTINGS)
    if first[2] is None:
        active_policy()
        rows = _rows(category, variants, session, known)
        first = next(row for row in rows if row[6] == _SETTINGS)
    family = {row[0]: Member(*row[:7], incumbent=row[12]) for row in rows if row[6] >= 0}
    _, _, policy, min_share, epoch, _, _, kind, parameters, revision, ticks, pinned, sticky, stamp = first
    if known is None or known.stamp != stamp:
        known = _seen[connection.alias] = _evidence(stamp, rows)
    settings = Settings(policy, kind, parameters, min_share, revision, ticks, epoch, pinned, sticky)
    return DecisionState(settings=settings, family=family, evidence=known)


@lru_cache(maxsize=16)
def _sql(count: int) -> str:
    ids = ",".join(["%s"] * count)
    return " ".join(_SQL.format(ids=ids, counts=_STAMP, **_TABLES, **_MARKS, **_NOTHING).split())


def _rows(category: str, variants: Sequence[AgentVariant], session: str, known: Evidence | None) -> list[tuple[Any, ...]]:
    ids = [variant.id for variant in variants]
    stamp = "" if known is None else known.stamp
    with connection.cursor() as cursor:
        cursor.execute(_sql(len(ids)), [*ids, session, session, category, stamp, stamp, stamp])
        return cursor.fetchall()


def _evidence(stamp: str, rows: list[tuple[Any, ...]]) -> Evidence:
    evidence = Evidence(stamp=stamp, arms={}, priors={}, linear={})
    for row in rows:
        mark = row[6]
        if mark == _ARM:
            # Sums that rewards were subtracted from again can miss their bounds by a rounding error.
            weight = max(row[3], 0.0)
            total = min(max(row[4], 0.0), weight)
            evidence.arms.setdefault(row[0], {})[row[2]] = weight, total, min(max(row[5], 0.0), total)
        elif mark == _PRIOR:
            evidence.priors.setdefault(row[2], {})[row[7]] = row[3], row[4]
        elif mark == _LINEAR:
            evidence.linear[row[0]] = row[2], row[7]
    return evidence


def arm_probabilities(
    state: DecisionState,
    category: str,
    variants: Sequence[AgentVariant],
    policy: Policy,
    seed: int,
    *,
    now: float = 0.0,
    context: np.ndarray | None = None,
) -> tuple[ArmEvidence, np.ndarray]:
    """What the policy sees, and the probability of each variant, shape (K,), before bounds on shares.

    The variants as arms: own rewards, plus each predecessor's at the share that its successor inherits.
    now: the time in the unit of the policy's half-life. context: the question's, for a linear policy."""
    lines = tuple(_line(variant.id, state.family) for variant in variants)
    names = tuple(variant.name for variant in variants)
    prepared = state.evidence.prepared
    if len(prepared) > PREPARED_MOST:
        prepared.clear()
    key = (category, policy.reads_elsewhere, names, lines)
    sums = prepared.get(key)
    if sums is None:
        sums = prepared[key] = Sums.of(state.evidence, *key)
    if policy.half_life is not None:
        sums = sums.scaled(ForwardDecay(half_life=policy.half_life, epoch=state.settings.epoch).scale(now))
    evidence = sums.evidence
    if policy.reads_question:
        designs, responses = _linear_sums(state.evidence.linear, policy.dimensions + 1, lines)
        evidence = dataclasses.replace(
            evidence, context=context, designs=designs * sums.scale, responses=responses * sums.scale
        )
    # The policy's own randomness is a stream apart, so the draw can be repeated from the logged probabilities alone.
    return evidence, policy.probabilities(evidence, np.random.default_rng((seed, 1)))


Line = tuple[tuple[int, float], ...]  # (variant, share of its evidence that counts), the candidate first


def _line(pk: int, family: dict[int, Member]) -> Line:
    line, share = [], 1.0
    link: int | None = pk
    while link is not None and share > 0:
        line.append((link, share))
        share *= family[link].inherit
        link = family[link].predecessor
    return tuple(line)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """learned: weights, totals, squares, shape (3, C, K), the question's category first; priors: pulls, totals, (2, C, K).

    scale: of what was learned; priors do not fade."""

    learned: np.ndarray
    priors: np.ndarray
    scale: float = 1.0

    @classmethod
    def of(cls, evidence: Evidence, category: str, elsewhere: bool, names: tuple[str, ...], lines: tuple[Line, ...]) -> Sums:
        categories = {category}
        if elsewhere:
            categories |= {name for line in lines for pk, _ in line for name in evidence.arms.get(pk, ())}
            categories |= {name for agent in names for name in evidence.priors.get(agent, ())}
        index = {name: row for row, name in enumerate([category, *sorted(categories - {category})])}
        learned, priors = np.zeros((3, len(index), len(lines))), np.zeros((2, len(index), len(lines)))
        for arm, (name, line) in enumerate(zip(names, lines, strict=True)):
            for pk, share in line:
                for where, values in evidence.arms.get(pk, {}).items():
                    if where in index:
                        learned[:, index[where], arm] += [share * value for value in values]
            for where, pair in evidence.priors.get(name, {}).items():
                if where in index:
                    priors[:, index[where], arm] = pair
        return cls(learned=learned, priors=priors)

    def scaled(self, scale: float) -> Sums:
        return Sums(learned=self.learned * scale, priors=self.priors, scale=scale)

    @cached_property
    def evidence(self) -> ArmEvidence:
        pulls, totals, squares = self.learned[:, 0]
        more = {}
        if self.learned.shape[1] > 1:
            # A prior counts as rewards of 0 and 1, whose squares are themselves.
            rest = self.learned[:, 1:] + self.priors[[0, 1, 1], 1:]
            more = dict(zip(("elsewhere_pulls", "elsewhere_totals", "elsewhere_squares"), rest, strict=True))
        return ArmEvidence(
            pulls=pulls, totals=totals, squares=squares, prior_pulls=self.priors[0, 0], prior_totals=self.priors[1, 0], **more
        )


def _linear_sums(arms: dict[int, tuple[str, str]], length: int, lines: tuple[Line, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(designs, responses), shapes (K, D, D) and (K, D)."""
    designs, responses = np.zeros((len(lines), length, length)), np.zeros((len(lines), length))
    for arm, line in enumerate(lines):
        for pk, share in line:
            if pk in arms:
                design, response = arms[pk]
                designs[arm] += share * unpacked(design, length, length)
                responses[arm] += share * unpacked(response, length)
    return designs, responses
