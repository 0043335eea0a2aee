"""The policy to evaluate, as probabilities of every arm in every logged round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from evals.evidence import EvidenceTable, Priors
from evals.logs import LoggedRounds
from rewards.bandit import ArmEvidence, Policy, project

Array = np.ndarray


def uniform(rounds: LoggedRounds) -> Array:
    """Every arm that could be chosen as often as any other; shape (n, K)."""
    if rounds.available is None:
        return np.full((len(rounds), len(rounds.arms)), 1 / len(rounds.arms))
    return rounds.available / rounds.available.sum(axis=1, keepdims=True)


def frequencies(rounds: LoggedRounds, of: LoggedRounds) -> Array:
    """What another log's policy did, from how often it chose each arm in each stratum; shape (n, K).

    An approximation: the other policy may have changed with time and looked at more than the stratum. Raises ValueError
    where the two logs have other arms, or a stratum is missing from the other."""
    if rounds.arms != of.arms:
        raise ValueError("the two logs have different arms.")
    missing = set(rounds.stratum_names) - set(of.stratum_names)
    if missing:
        raise ValueError(f"the other log has no rounds of {', '.join(sorted(missing))}.")
    counts = np.zeros((len(of.stratum_names), len(of.arms)))
    np.add.at(counts, (of.strata, of.actions), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    index = {name: code for code, name in enumerate(of.stratum_names)}
    return shares[np.array([index[name] for name in rounds.stratum_names])[rounds.strata]]


def policy_probabilities(
    rounds: LoggedRounds,
    policy: Policy,
    *,
    priors: Priors | None = None,
    min_share: float = 0.0,
    embeddings: Array | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Array:
    """What a bandit policy would have done in each round, had it learned from the log up to there; shape (n, K).

    It learns from what was logged, not from what it would have chosen itself: "what if we had used this policy or these
    priors" at each decision as it came. The rounds must be in the order of their time; strata are its categories.
    priors: (pulls, totals), shape (strata, K). min_share: floor of each arm's share, as routing applies it."""
    shape = (len(rounds.stratum_names), len(rounds.arms))
    table = EvidenceTable(policy, rounds.strata, shape, embeddings=embeddings, priors=priors, times=rounds.times)
    rng = np.random.default_rng(seed)
    result = np.zeros((len(rounds), shape[1]))
    everyone = np.arange(shape[1])
    for row in range(len(rounds)):
        evidence, arms = table.evidence_of_one(row), everyone
        if rounds.available is not None and not rounds.available[row].all():
            arms = np.flatnonzero(rounds.available[row])
            evidence = _of(evidence, arms)
        probabilities = policy.probabilities(evidence, rng)
        if min_share > 0:
            floors, caps = np.full(len(arms), min_share), np.ones(len(arms))
            probabilities = project(probabilities, floors, caps, int(probabilities.argmax()))
        result[row, arms] = probabilities
        table.learn(np.array([row]), rounds.actions[row : row + 1], rounds.rewards[row : row + 1])
        if progress and row % 256 == 0:
            progress(row / len(rounds))
    if progress:
        progress(1.0)
    return result


def _of(evidence: ArmEvidence, arms: Array) -> ArmEvidence:
    """The same for some of the arms."""
    values = {spec.name: getattr(evidence, spec.name) for spec in dataclasses.fields(evidence)}
    axes = {"context": None, "designs": -3, "responses": -2}
    return ArmEvidence(
        **{
            name: value if value is None or axes.get(name, -1) is None else value.take(arms, axis=axes.get(name, -1))
            for name, value in values.items()
        }
    )
