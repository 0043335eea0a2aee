"""Routing: one decision of the bandit in process, policy, priors and evidence read from the database each time.

A site of its own in a temporary folder (SQLite), no model call. With more than one revision of each agent, decisions walk
inherited evidence too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptrag.common.errors import AdaptRAGError

ROOT = Path(__file__).resolve().parent.parent


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=20, help="agents to choose among (20)")
    parser.add_argument("--categories", type=int, default=10, help="categories with evidence and priors (10)")
    parser.add_argument("--revisions", type=int, default=1, help="revisions of each agent, the newest live (1)")
    parser.add_argument("--decisions", type=int, default=1000, help="decisions of each policy (1000)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {measured, p50_ms, p95_ms, agents, categories, revisions, decisions}: a policy each, and the query alone."""
    progress(0.1, "making a site and routing")
    with tempfile.TemporaryDirectory(prefix="adaptrag-routing-") as folder:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTRAG_", "DATABASE_URL"))}
        environment = inherited | {"ADAPTRAG_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "adaptrag.settings"}
        numbers = [str(options[name]) for name in ("agents", "categories", "revisions", "decisions")]
        command = [sys.executable, "-m", "benchmarks.routing", *numbers]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"The measurement failed:\n{done.stderr[-3000:]}")
    progress(1, "")
    return json.loads(done.stdout)


def measure(agents: int, categories: int, revisions: int, decisions: int) -> list[dict[str, Any]]:
    """Fill an empty site and time decisions on it."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from rewards.bandit import POLICIES
    from rewards.decision import decision_state
    from rewards.models import RoutingPolicy
    from rewards.router import BanditRouter
    from rewards.services import policy_activate, policy_save

    variants, names = _fill(agents, categories, revisions), [f"category {i}" for i in range(categories)]
    rows = []
    for kind, policy in POLICIES.items():
        if policy.reads_question:
            continue  # the embedding alone takes several times as long
        policy_activate(policy_save(RoutingPolicy(name=f"benchmark {kind}", kind=kind)))
        _evidence()
        rows.append({"measured": kind, **_timed(lambda i: BanditRouter().route(names[i % categories], variants), decisions)})
        if kind == RoutingPolicy.Kind.HIERARCHICAL:
            changed = _timed(lambda i: BanditRouter().route(names[i % categories], variants), decisions, before=_another_rating)
            rows.append({"measured": f"{kind}, a rating before each decision", **changed})
    rows.append({"measured": "its query alone", **_timed(lambda i: decision_state(names[i % categories], variants), decisions)})
    size = {"agents": agents, "categories": categories, "revisions": revisions, "decisions": decisions}
    return [row | size for row in rows]


def _fill(agents: int, categories: int, revisions: int) -> list[Any]:
    from agents.models import AgentVariant
    from rewards.models import BanditArm, PriorReward

    dice = random.Random(0)
    names = [f"category {i}" for i in range(categories)]
    live = []
    for number in range(agents):
        variant = None
        for revision in range(1, revisions + 1):
            variant = AgentVariant.objects.create(
                name=f"agent{number}", strategy="naive_rag", revision=revision, predecessor=variant
            )
            for category in names:
                BanditArm.objects.create(category=category, variant=variant)
        for category in names:
            PriorReward.objects.create(category=category, agent_name=variant.name, pulls=5, total=dice.uniform(1, 4))
        live.append(variant)
    return live


def _evidence() -> None:
    """Rewards of 0 and 1 in every arm; a change of policy has counted them anew from an empty log."""
    from rewards.models import BanditArm

    dice = random.Random(0)
    arms = list(BanditArm.objects.order_by("pk"))
    for arm in arms:
        arm.pulls = arm.weight = dice.randint(0, 300)
        arm.total = arm.weighted_total = arm.weighted_squares = arm.total_squares = arm.pulls * dice.uniform(0.4, 0.8)
    sums = ["pulls", "total", "total_squares", "weight", "weighted_total", "weighted_squares"]
    BanditArm.objects.bulk_update(arms, sums, batch_size=100)


def _another_rating(i: int) -> None:
    from django.db.models import F

    from rewards.models import BanditArm

    arm = BanditArm.objects.order_by("pk")[i % 100 : i % 100 + 1].get()
    BanditArm.objects.filter(pk=arm.pk).update(weight=F("weight") + 1)


def _timed(decide: Callable[[int], Any], decisions: int, before: Callable[[int], Any] | None = None) -> dict[str, float]:
    times = []
    for i in range(decisions):
        if before:
            before(i)
        begun = time.perf_counter()
        decide(i)
        times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    return {"p50_ms": round(times[decisions // 2], 3), "p95_ms": round(times[decisions * 95 // 100], 3)}


if __name__ == "__main__":
    json.dump(measure(*map(int, sys.argv[1:5])), sys.stdout)
