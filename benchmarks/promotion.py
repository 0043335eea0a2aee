"""Promotion: how often the rules are right about canaries that are equally good, worse, better or broken.

Pure: made-up rewards, the rules with the thresholds of the settings. Nothing is routed; a canary gets its share of the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Callable
from typing import Any

from rewards.promotion import Outcome, Record, Thresholds, canary_verdict, next_share
from rewards.services import thresholds

KNOWN = 400  # ratings of the incumbent
ROUNDS = 200
CASES = [
    ("equal", 0.0), ("worse by 0.05", -0.05), ("worse by 0.1", -0.1), ("better by 0.1", 0.1), ("better by 0.2", 0.2),
]  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paths", type=int, default=400, help="canaries a row (400)")
    parser.add_argument("--ratings", type=int, default=150, help="of a canary, at most (150)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    rules = thresholds()
    at_once = dataclasses.replace(rules, canary_share=rules.canary_max_share)
    plans = [(kind, 0.4, label, 0.4 + by, rules) for kind in ("0 or 1", "F1") for label, by in CASES]
    plans += [("F1", 0.4, "broken, 0.02", 0.02, start) for start in (rules, at_once)]
    plans += [("F1", 0.3, "broken, 0.02", 0.02, start) for start in (rules, at_once)]
    rows = []
    for number, (kind, incumbent, label, mean, start) in enumerate(plans):
        rows.append(row(kind, incumbent, label, mean, start, options["paths"], options["ratings"]))
        progress((number + 1) / len(plans), f"{kind}, {label}")
    return rows


def row(kind: str, incumbent: float, label: str, mean: float, rules: Thresholds, paths: int, ratings: int) -> dict[str, Any]:
    lives = [life(random.Random(path), kind, incumbent, mean, rules, ratings) for path in range(paths)]
    back = [one for one in lives if one[0] == Outcome.ROLL_BACK]
    up = sorted(n for outcome, n, _ in lives if outcome == Outcome.ACTIVATE)
    taken = sorted(n for _, n, _ in back)
    return {
        "rewards": kind,
        "incumbent": incumbent,
        "canary": label,
        "start_share": rules.canary_share,
        "rolled_back": round(len(back) / paths, 4),
        "rolled_back_in_200_rounds": round(sum(rounds <= ROUNDS for *_, rounds in back) / paths, 4),
        "activated": round(len(up) / paths, 4),
        "ratings_to_rollback_p50": taken[len(taken) // 2] if taken else None,
        "ratings_to_active_p50": up[len(up) // 2] if up else None,
    }


def life(
    rng: random.Random, kind: str, incumbent: float, mean: float, rules: Thresholds, ratings: int
) -> tuple[Outcome, int, int]:
    """(how it ended, ratings, rounds)."""
    other = Record(name="incumbent", ratings={"factual": (KNOWN, KNOWN * incumbent)})
    share, total, rounds = rules.canary_share, 0.0, 0
    for n in range(1, ratings + 1):
        rounds += 1
        while rng.random() >= share:
            rounds += 1
        total += reward(rng, kind, mean)
        outcome = canary_verdict(Record(name="canary", ratings={"factual": (n, total)}), other, share, rules).outcome
        if outcome in (Outcome.ROLL_BACK, Outcome.ACTIVATE):
            return outcome, n, rounds
        if outcome == Outcome.GROW:
            share = next_share(share, rules)
    return Outcome.HOLD, ratings, rounds


def reward(rng: random.Random, kind: str, mean: float) -> float:
    """0 or 1; or as token F1 is: nothing shared with the gold answer, else around 0.6."""
    if kind == "0 or 1":
        return float(rng.random() < mean)
    return rng.betavariate(3, 2) if rng.random() < mean / 0.6 else 0.0
