"""What tests of a log are given, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

Array = np.ndarray
RATE = 0.05  # expected share of chance findings among those shown
LEAST = 20  # answers on each side of a comparison; below, an interval is too wide to act on


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A revision of an agent that answers. takes: it is not paused; prompt_passages: what it puts in the prompt at most."""

    agent: str
    revision: int
    canary: bool = False
    takes: bool = True
    prompt_passages: int | None = None


@dataclass(frozen=True, kw_only=True)
class Log:
    """Rated answers in the order of time; arrays of shape (n,).

    reward: in [0, 1]. agent, category, collection: indices into the names. words: the question's length. hour: of the day, 0
    to 24, local. agents: of each revision with ratings its name: the agent's for the active one, with the number for others,
    whose ratings say nothing of how the active one does. live: those that answer now, by that name.
    top_ks: each collection's present default.
    documents: names of the documents in each answer's prompt, of the newest len(documents) answers.
    """

    reward: Array
    agent: Array
    category: Array
    top_k: Array
    words: Array
    hour: Array
    agents: Sequence[str]
    categories: Sequence[str]
    live: Mapping[str, Revision]
    collection: Array
    collections: Sequence[str]
    top_ks: Mapping[str, int]
    documents: Sequence[frozenset[str]] = ()
    priors: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # (category, agent) -> (pulls, total)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, rated or not. supported: a passage stood in the prompt and the answer did not abstain."""

    question: str
    supported: bool


@dataclass(frozen=True, kw_only=True)
class Action:
    """What an operator can do about it with a click. kind: pause, retire, prior, top_k, eval_set; values are the service's."""

    kind: str
    label: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """estimate, low, high: the effect in reward units (of `unsupported`: a share) with its 95 % interval, n answers behind it.

    q: the p-value after the correction; None for a plain count. key names the finding from one report to the next.
    """

    key: str
    kind: str
    title: str
    detail: str
    estimate: float
    low: float
    high: float
    n: int
    p: float | None = None
    q: float | None = None
    action: Action | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def significant(findings: Sequence[Finding], rate: float = RATE) -> list[Finding]:
    """Those that stand after the correction for all of them (Benjamini & Hochberg, 1995), strongest first, with q set."""
    tested = sorted((one for one in findings if one.p is not None), key=lambda one: one.p)
    q, kept = 1.0, []
    for rank in range(len(tested), 0, -1):
        one = tested[rank - 1]
        q = min(q, one.p * len(tested) / rank)
        if q <= rate:
            kept.append(replace(one, q=q))
    return [*reversed(kept), *(one for one in findings if one.p is None)]


def both(log: Log) -> Array:
    return log.agent * len(log.categories) + log.category


def sides(inside: Array) -> bool:
    return min(int(inside.sum()), int((~inside).sum())) >= LEAST


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def collect(chosen: dict[str, Any], what: str) -> Action:
    return Action(kind="eval_set", label=f"Add the worst rated {what} to an eval set", values=chosen)
