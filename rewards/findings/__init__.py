"""What a log of rated answers says about how to do better: tested statements with intervals. Pure: arrays in, findings out.

Every statement is a test on the same log, so their p-values are corrected together (Benjamini & Hochberg, 1995): of the
findings that are shown, at most RATE are expected to be chance, and a log in which nothing matters gives any finding at all
about as rarely. Rewards are compared within agents and categories where both matter, so that one agent's questions being harder
is not taken for the agent being worse.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.findings.agents import arms, drift, priors
from rewards.findings.base import LEAST, RATE, Action, Asked, Finding, Log, Revision, significant
from rewards.findings.effects import Effect, effect
from rewards.findings.questions import categories, hours, length, unsupported
from rewards.findings.retrieval import documents, top_k

__all__ = ["RATE", "Action", "Asked", "Effect", "Finding", "Log", "Revision", "analyse", "effect"]

TESTS = (arms, categories, top_k, length, hours, drift, documents, priors)


def analyse(log: Log, asked: Sequence[Asked] = (), rate: float = RATE) -> list[Finding]:
    """All findings of a log that stand, strongest first."""
    candidates = [finding for test in TESTS for finding in (test(log) if len(log.reward) >= 2 * LEAST else ())]
    found = significant([*candidates, *unsupported(asked)], rate)
    worse = {one.key.split(":")[-1] for one in found if one.key.startswith("arm:all:")}
    return [one for one in found if not (one.kind == "arm" and ":all:" not in one.key and one.key.split(":")[-1] in worse)]
