"""Feedback from many processes at once, on the database that the environment names; prints what came of it as JSON.

Run as a program: `python -m tests.faults.feedback_load PROCESSES FEEDBACKS_EACH` after `migrate`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections import defaultdict
from typing import Any

INTERACTIONS = 240


def prepare() -> list[str]:
    """Interactions of 3 agents in 4 categories; no arm exists yet, so the first ratings race to make them."""
    from agents.models import AgentVariant
    from rewards.services import interaction_log

    agents = [AgentVariant.objects.create(name=name, strategy="naive_rag") for name in ("alpha", "beta", "gamma")]
    asked = [
        interaction_log(variant=agents[i % 3], question="Why?", category=f"category {i % 4}", answer="Because.")
        for i in range(INTERACTIONS)
    ]
    return [str(interaction.pk) for interaction in asked]


def rate(process: int, count: int, asked: list[str], barrier: Any, results: Any) -> None:
    """Rate as a rater of one's own and as one that all processes share; send some ratings twice, change others."""
    from rewards.services import feedback_record

    dice = random.Random(process)
    outcomes: dict[str, int] = defaultdict(int)
    last: dict[str, float] = {}
    errors: list[str] = []
    previous = None
    barrier.wait()
    for _ in range(count):
        if previous is None or dice.random() < 0.8:
            rater = "shared" if dice.random() < 0.3 else f"rater {process}"
            # Few targets a process, so that ratings are replaced often and processes meet on the same interactions.
            previous = (dice.choice(asked[process * 7 : process * 7 + 60]), rater, dice.choice((0, 0.1, 0.25, 0.7, 1.0)))
        target, rater, value = previous
        try:
            result = feedback_record(interaction_id=target, rater=rater, reward=value)
        except Exception as error:
            errors.append(repr(error))
            continue
        outcomes[result.outcome] += 1
        last[f"{target} {rater}"] = value
    results.put({"outcomes": outcomes, "last": last, "errors": errors})


def expected() -> dict[str, tuple[int, float, float]]:
    """Arms as they must be, added up here from the reward rows."""
    from rewards.models import Reward

    ratings: dict[Any, list[float]] = defaultdict(list)
    for row in Reward.objects.select_related("interaction__variant"):
        ratings[row.interaction].append(row.value)
    arms: dict[str, tuple[int, float, float]] = {}
    for interaction, values in ratings.items():
        mean = sum(values) / len(values)
        key = f"{interaction.category} {interaction.variant.name}"
        pulls, total, squares = arms.get(key, (0, 0.0, 0.0))
        arms[key] = (pulls + 1, total + mean, squares + mean * mean)
    return arms


def stored() -> dict[str, tuple[float, float, float]]:
    from rewards.models import BanditArm

    arms = BanditArm.objects.select_related("variant")
    return {f"{arm.category} {arm.variant.name}": (arm.pulls, arm.total, arm.total_squares) for arm in arms}


def summed() -> tuple[dict[str, tuple[int, float, float]], int]:
    """The same figures by the sums of the log, and how many ratings these count."""
    from agents.models import AgentVariant
    from rewards.rollup.read import log_sums

    names, sums = dict(AgentVariant.objects.values_list("pk", "name")), log_sums()
    figures = {f"{category} {names[variant]}": (one.n, one.total, one.squares) for (category, variant), one in sums.items()}
    return {key: value for key, value in figures.items() if value[0]}, sum(one.ratings for one in sums.values())


def main(processes: int, count: int) -> dict[str, Any]:
    import django

    django.setup()
    from django.db import connections

    from rewards.models import Reward
    from rewards.services import arms_rebuild

    asked = prepare()
    connections.close_all()  # a connection must not be shared with a forked process
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(processes + 1), fork.Queue()
    children = [fork.Process(target=rate, args=(i, count, asked, barrier, results)) for i in range(processes)]
    for child in children:
        child.start()
    barrier.wait()
    begun = time.perf_counter()
    rebuilt = 0
    while any(child.is_alive() for child in children) and results.qsize() < processes:
        arms_rebuild()  # what is rated while it counts must not be lost
        rebuilt += 1
        time.sleep(5)
    reports = [results.get(timeout=300) for _ in children]
    seconds = time.perf_counter() - begun
    for child in children:
        child.join()
    arms = stored()
    log, ratings = summed()
    arms_rebuild()
    return {
        "seconds": seconds,
        "rebuilt": rebuilt,
        "exit_codes": [child.exitcode for child in children],
        "reports": reports,
        "rewards": {f"{row.interaction_id} {row.rater}": row.value for row in Reward.objects.all()},
        "expected": expected(),
        "arms": arms,
        "arms_rebuilt": stored(),
        "log": log,
        "log_rebuilt": summed()[0],
        "ratings": ratings,
    }


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "adaptrag.settings")
    json.dump(main(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
