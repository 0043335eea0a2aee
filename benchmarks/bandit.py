"""Bandit: what policies earn on replay sets, after a swap of arms, and how long a probability vector takes.

The policy marked as default was chosen by these figures (docs/decisions/0004-default-policy.md). "Thompson, one category" is
Thompson sampling that does not look at the category.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bandit_sets import replay_sets, swapped
from evals.logs import RoutingLog, read_routing_log
from evals.replay import mean_interval, paired_difference, random_orders, replay
from rewards.bandit import POLICIES, ArmEvidence, Policy

ONE_CATEGORY = "thompson, one category"
KINDS = [kind for kind, policy in POLICIES.items() if not policy.reads_question]
GOAL, OTHER = 0.8, 0.4


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, help="a routing log to replay as well (JSON lines, plain or .gz)")
    parser.add_argument(
        "--embeddings", type=Path, help="its questions' embeddings, .npy of shape (n, E): LinTS is replayed too"
    )
    parser.add_argument("--policies", nargs="+", default=KINDS, choices=KINDS, metavar="POLICY", help="all, by default")
    parser.add_argument("--shuffles", type=int, default=20, help="orders of the routing log (20)")
    parser.add_argument("--sets", type=int, default=60, help="generated sets of each size (60)")
    parser.add_argument("--seed", type=int, default=0)


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {measured, policy, value, low, high, ...}: see each function."""
    policies = {kind: POLICIES[kind].from_parameters({}) for kind in options["policies"]}
    rows = []
    if options["dataset"]:
        log = read_routing_log(options["dataset"])
        embeddings = np.load(options["embeddings"]) if options["embeddings"] else None
        linear = (
            {} if embeddings is None else {kind: POLICIES[kind].from_parameters({}) for kind in ("lints", "discounted_lints")}
        )
        rows += on_file(log, policies | linear, options["shuffles"], options["seed"], progress, embeddings)
    for label, size in (("150 to 800 rows", None), ("800 rows", 800)):
        progress(0.5 if size is None else 0.7, f"{options['sets']} sets of {label}")
        rows += on_sets(label, replay_sets(options["sets"], seed=options["seed"] + 1, rows=size), policies)
    progress(0.9, "swap of arms")
    rows += after_a_swap({kind: policy for kind, policy in policies.items() if policy.half_life is not None})
    rows += decisions(policies)
    progress(1, "")
    return rows


def on_file(
    log: RoutingLog,
    policies: dict[str, Policy],
    shuffles: int,
    seed: int,
    progress: Callable[[float, str], Any],
    embeddings: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Mean reward with its interval over shuffles; `over_fixed` is the difference from the best fixed arm, `over_thompson` that
    from Thompson sampling without categories, shuffle by shuffle, with its interval."""
    rows: list[dict[str, Any]] = []
    plain = None
    for done, (kind, (given, policy)) in enumerate(_entrants(log, policies).items()):
        progress(0.5 * done / (len(policies) + 1), f"{kind} on {len(log)} rows")
        started = time.perf_counter()
        result = replay(given, policy, shuffles=shuffles, seed=seed, embeddings=embeddings)
        low, high = result.interval or (None, None)
        plain = plain or result
        over, between = paired_difference(result, plain)
        rows.append(
            {"measured": f"replay of {len(log)} rows", "policy": kind, "value": result.mean_reward, "low": low, "high": high}
            | {"over_fixed": result.mean_reward - result.best_fixed_reward, "seconds": time.perf_counter() - started}
            | {"over_thompson": over, "over_low": between and between[0], "over_high": between and between[1]}
        )
    return rows


def on_sets(label: str, logs: list[RoutingLog], policies: dict[str, Policy], shuffles: int = 10) -> list[dict[str, Any]]:
    """Mean reward less that of Thompson without categories, with the interval over sets; `over_fixed` as in `on_file`."""
    differences: dict[str, list[tuple[float, float]]] = {}
    for seed, log in enumerate(logs):
        results = {
            kind: replay(given, policy, shuffles=shuffles, seed=seed)
            for kind, (given, policy) in _entrants(log, policies).items()
        }
        for kind, result in results.items():
            difference, _ = paired_difference(result, results[ONE_CATEGORY])
            differences.setdefault(kind, []).append((difference, result.mean_reward - result.best_fixed_reward))
    rows = []
    for kind, pairs in differences.items():
        values = np.array(pairs)
        low, high = mean_interval(values[:, 0]) or (None, None)
        rows.append(
            {"measured": f"{len(logs)} sets of {label}, over Thompson without categories", "policy": kind}
            | {"value": float(values[:, 0].mean()), "low": low, "high": high, "over_fixed": float(values[:, 1].mean())}
        )
    return rows


def after_a_swap(policies: dict[str, Policy], logs: int = 5, shuffles: int = 20) -> list[dict[str, Any]]:
    """Share of the gap between the arms earned in rewards 301 to 400 after a swap at 2,000; `before`: in 1,001 to 2,000."""
    rows = []
    for kind, policy in policies.items():
        earned = []
        for seed in range(logs):
            parts = random_orders(2000, shuffles, seed)
            orders = np.concatenate([parts, 2000 + parts[:, :400]], axis=1)
            earned.append(replay(swapped(4000, seed=seed), policy, seed=seed, orders=orders).rewards)
        regained = (np.concatenate(earned)[:, 2300:].mean(axis=1) - OTHER) / (GOAL - OTHER)
        low, high = mean_interval(regained)
        before = (float(np.concatenate(earned)[:, 1000:2000].mean()) - OTHER) / (GOAL - OTHER)
        rows.append(
            {"measured": "gap regained after a swap", "policy": kind, "value": float(regained.mean()), "low": low, "high": high}
            | {"before": before}
        )
    return rows


def decisions(policies: dict[str, Policy], arms: int = 20, categories: int = 10, repeats: int = 400) -> list[dict[str, Any]]:
    """Milliseconds, p50 and p95, of evidence and probability vector for 20 arms in 10 categories."""
    rng = np.random.default_rng(0)
    pulls = np.floor(10 ** rng.uniform(0, 3, (categories, arms)))
    totals = pulls * rng.uniform(0.3, 0.8, (categories, arms))
    sums = {"pulls": pulls[0], "totals": totals[0], "squares": totals[0]}
    elsewhere = {"elsewhere_pulls": pulls[1:], "elsewhere_totals": totals[1:], "elsewhere_squares": totals[1:]}
    rows = []
    for kind, policy in policies.items():
        given = sums | elsewhere if policy.reads_elsewhere else sums
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            policy.probabilities(ArmEvidence(**given), rng)
            times.append(1000 * (time.perf_counter() - started))
        p50, p95 = np.quantile(times, [0.5, 0.95])
        rows.append({"measured": f"milliseconds for {arms} arms", "policy": kind, "value": float(p50), "p95": float(p95)})
    return rows


def _entrants(log: RoutingLog, policies: dict[str, Policy]) -> dict[str, tuple[RoutingLog, Policy]]:
    blind = dataclasses.replace(log, categories=np.zeros(len(log), dtype=int), category_names=("",))
    return {ONE_CATEGORY: (blind, POLICIES["thompson"].from_parameters({}))} | {
        kind: (log, policy) for kind, policy in policies.items()
    }
