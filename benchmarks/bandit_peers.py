"""The same replay and the same estimates by MABWiser and the Open Bandit Pipeline, beside ours.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install -r requirements.txt mabwiser==2.7.4 scikit-learn pandas pyieoe
    /tmp/peers/bin/pip install --no-deps --ignore-requires-python obp==0.5.7
    /tmp/peers/bin/python -m benchmarks.bandit_peers replay routing.jsonl.gz [--shuffles 5] [--embeddings E.npy]
    /tmp/peers/bin/python -m benchmarks.bandit_peers ope logged.jsonl.gz [OTHER.jsonl.gz]

obp 0.5.7 declares that it needs a Python below 3.11; its estimators run on 3.11. `ope` also reports what a uniform policy is
worth by the first log beside its mean in the second, and the reverse from arm frequencies, which is approximate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.logs import LoggedRounds, RoutingLog, read_logged_rounds, read_routing_log
from evals.ope import DM, DR, ESTIMATORS, IPS, SNIPS, cross_fitted, overlap
from evals.ope.target import frequencies, uniform
from evals.replay import mean_interval, random_orders, replay
from rewards.bandit import UCB1, LinTS, Thompson
from rewards.bandit.lints import question_context


def against_mabwiser(log: RoutingLog, shuffles: int, seed: int) -> list[dict[str, Any]]:
    """One MABWiser bandit per category, over the same orders as ours."""
    from mabwiser.mab import MAB, LearningPolicy

    rows = []
    # MABWiser's UCB1 has alpha * sqrt(2 ln N / n), so its alpha of 1 is our c of sqrt(2).
    pairs = [(Thompson(), LearningPolicy.ThompsonSampling()), (UCB1(), LearningPolicy.UCB1(alpha=1.0))]
    for ours, theirs in pairs:
        means = []
        for index, order in enumerate(random_orders(len(log), shuffles, seed)):
            bandits: dict[int, Any] = {}
            seen: dict[int, int] = {}
            earned = 0.0
            for row in order:
                category = int(log.categories[row])
                seen[category] = seen.get(category, -1) + 1
                if not seen[category]:
                    bandits[category] = MAB(list(range(len(log.arms))), theirs, seed=1000 * index + category)
                # Its UCB1 never returns to an arm that has no reward yet, so each arm is tried once.
                arm = seen[category] if seen[category] < len(log.arms) else bandits[category].predict()
                bandits[category].partial_fit([arm], [log.rewards[row, arm]])
                earned += log.rewards[row, arm]
            means.append(earned / len(log))
        result = replay(log, ours, shuffles=shuffles, seed=seed)
        rows.append(
            {"policy": ours.kind, "ours": result.mean_reward, "interval": result.interval, "mabwiser": float(np.mean(means))}
            | {"mabwiser_interval": mean_interval(np.array(means))}
        )
    return rows


def linear_against_mabwiser(log: RoutingLog, embeddings: np.ndarray, shuffles: int, seed: int) -> list[dict[str, Any]]:
    """LinTS on the same reduced questions, one bandit over all categories."""
    from mabwiser.mab import MAB, LearningPolicy

    ours = LinTS()
    contexts = question_context(embeddings, ours.dimensions)
    means = []
    for index, order in enumerate(random_orders(len(log), shuffles, seed)):
        # Its alpha scales the root of the inverse precision; ours scales that times the rewards' deviation, below 0.5.
        bandit = MAB(
            list(range(len(log.arms))), LearningPolicy.LinTS(alpha=ours.exploration / 2, l2_lambda=ours.ridge), seed=index
        )
        earned = 0.0
        for step, row in enumerate(order):
            arm = step if step < len(log.arms) else bandit.predict(contexts[row : row + 1])
            bandit.partial_fit([arm], [log.rewards[row, arm]], contexts[row : row + 1])
            earned += log.rewards[row, arm]
        means.append(earned / len(log))
    result = replay(log, ours, shuffles=shuffles, seed=seed, embeddings=embeddings)
    return [
        {"policy": ours.kind, "ours": result.mean_reward, "interval": result.interval, "mabwiser": float(np.mean(means))}
        | {"mabwiser_interval": mean_interval(np.array(means))}
    ]


def against_obp(rounds: LoggedRounds, target: np.ndarray) -> list[dict[str, Any]]:
    """Value by ours and by obp on the same rounds, target and predictions."""
    from obp.ope import DirectMethod, DoublyRobust, InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting

    predictions = cross_fitted(rounds)
    given = {
        "reward": rounds.rewards, "action": rounds.actions, "pscore": rounds.propensities, "action_dist": target[:, :, None],
        "position": np.zeros(len(rounds), dtype=int), "estimated_rewards_by_reg_model": predictions[:, :, None],
    }  # fmt: skip
    theirs = {
        IPS: InverseProbabilityWeighting, SNIPS: SelfNormalizedInverseProbabilityWeighting, DM: DirectMethod, DR: DoublyRobust,
    }  # fmt: skip
    rows = []
    for ours, other in theirs.items():
        value, peer = ours().estimate(rounds, target, predictions).value, float(other().estimate_policy_value(**given))
        rows.append({"estimator": ours.name, "ours": value, "obp": peer, "difference": abs(value - peer)})
    return rows


def both_ways(rounds: LoggedRounds, other: LoggedRounds) -> list[dict[str, Any]]:
    """The uniform policy from the first log beside the second's mean; the first's frequencies from the second log."""
    rows = []
    for label, log, target, truth in (
        ("uniform, from the first log", rounds, uniform(rounds), other.rewards.mean()),
        ("first log's frequencies, from the second (approximate)", other, frequencies(other, rounds), rounds.rewards.mean()),
    ):
        predictions, cover = cross_fitted(log), overlap(log, target)
        for name, estimator in ESTIMATORS.items():
            estimate = estimator().estimate(log, target, predictions)
            rows.append(
                {"policy": label, "estimator": name, "value": estimate.value, "low": estimate.low, "high": estimate.high}
                | {"on_policy_mean": float(truth), "effective_sample_size": cover.effective_sample_size, "n": len(log)}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    replays = commands.add_parser("replay")
    replays.add_argument("log", type=Path)
    replays.add_argument("--shuffles", type=int, default=5)
    replays.add_argument("--embeddings", type=Path, help="the questions' embeddings, float array, shape (n, E), for LinTS")
    replays.add_argument("--seed", type=int, default=0)
    estimates = commands.add_parser("ope")
    estimates.add_argument("log", type=Path)
    estimates.add_argument("other", type=Path, nargs="?")
    options = parser.parse_args()
    if options.command == "replay":
        log = read_routing_log(options.log)
        rows = against_mabwiser(log, options.shuffles, options.seed)
        if options.embeddings:
            rows += linear_against_mabwiser(log, np.load(options.embeddings), options.shuffles, options.seed)
    else:
        rounds = read_logged_rounds(options.log)
        rows = against_obp(rounds, uniform(rounds))
        if options.other:
            rows += both_ways(rounds, read_logged_rounds(options.other))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
