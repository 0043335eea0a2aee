"""Leaderboard: the statistics' pages and calls on a site with many logged interactions, and what keeping their sums costs.

A site of its own in a temporary folder (SQLite). Its log is generated: five agents of different quality, all categories, 90
days, half of the answers rated, with a passage of 1.4 kB.
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
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from adaptrag.common.errors import AdaptRAGError

ROOT = Path(__file__).resolve().parent.parent
DAYS, AGENTS, RATED = 90, 5, 0.5
BATCH = 20_000
DISTINCT = 100_000  # interactions that are generated one by one; the rest are copies at other times
PASSAGE = "The lighthouse keeper lives on the island, and the ferry calls there at six in the morning. " * 15


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interactions", type=int, default=1_000_000, help="in the log (1000000)")
    parser.add_argument("--repeat", type=int, default=20, help="requests to each page (20)")
    parser.add_argument("--writes", type=int, default=1000, help="interactions logged and rated while timed (1000)")
    parser.add_argument("--folder", help="keep the site here, and use the one that is there")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {measured, p50_ms, p95_ms, cpu_ms, interactions}: each page and call, then one write with and without the sums.

    cpu_ms: the median of the processor's time, which other load on the machine does not stretch."""
    progress(0.1, "generating a log and asking for its statistics")
    with tempfile.TemporaryDirectory(prefix="adaptrag-leaderboard-") as temporary:
        folder = Path(options["folder"] or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTRAG_", "DATABASE_URL"))}
        environment = inherited | {"ADAPTRAG_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "adaptrag.settings"}
        numbers = [str(options[name]) for name in ("interactions", "repeat", "writes")]
        command = [sys.executable, "-m", "benchmarks.leaderboard", *numbers]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"The measurement failed:\n{done.stderr[-3000:]}")
    progress(1, "")
    return json.loads(done.stdout.splitlines()[-1])


def measure(interactions: int, repeat: int, writes: int) -> list[dict[str, Any]]:
    import django
    from django.conf import settings
    from django.core.management import call_command

    django.setup()
    settings.ALLOWED_HOSTS = ["*"]
    call_command("migrate", verbosity=0)
    from rewards.models import Interaction
    from rewards.services import arms_rebuild

    rows = []
    if Interaction.objects.count() < interactions:
        _fill(interactions)
        rows.append({"measured": "rebuild of arms and sums", **_percentiles([_clocked(arms_rebuild)[1]])})
    rows += [{"measured": name, **_timed(request, repeat)} for name, request in _requests()]
    rows += _writes(writes)
    return [row | {"interactions": interactions} for row in rows]


def _fill(interactions: int) -> None:
    from django.utils import timezone

    from agents.classifier import CATEGORIES
    from agents.models import AgentVariant
    from rewards.models import Interaction, Reward

    dice = random.Random(0)
    agents = [AgentVariant.objects.get_or_create(name=f"agent{i}", strategy="naive_rag")[0] for i in range(AGENTS)]
    now, made = timezone.now(), Interaction.objects.count()
    while made < min(interactions, DISTINCT):
        rows, rewards = [], []
        for _ in range(min(BATCH, min(interactions, DISTINCT) - made)):
            made += 1
            agent = dice.choices(range(AGENTS), weights=[16, 8, 4, 2, 1])[0]
            back = timedelta(days=dice.uniform(0, DAYS))
            failed = dice.random() < 0.01
            row = Interaction(
                created_at=now - back,
                category=dice.choice(CATEGORIES),
                variant=agents[agent],
                state="failed" if failed else "answered",
                error={"code": "chat_model_timeout", "message": "It did not answer."} if failed else None,
                latency_ms=dice.lognormvariate(6.5 + 0.2 * agent, 0.6),
                cost_usd=0.0004,
                question="Who is the keeper of the lighthouse, and when does the ferry call?",
                answer="Marta Olsen [1].",
                sources=[{"chunk_id": 1, "rank": 1, "text": PASSAGE}],
                propensity=0.2,
                policy="hierarchical_thompson",
                policy_revision=1,
            )
            rows.append(row)
            if not failed and dice.random() < RATED:
                value = float(dice.random() < 0.8 - 0.08 * agent)
                rewards.append(Reward(interaction=row, rater="user", value=value, created_at=row.created_at))
        Interaction.objects.bulk_create(rows)
        Reward.objects.bulk_create(rewards)
    while made < interactions:
        made += _copy(min(DISTINCT, interactions - made))


def _copy(count: int) -> int:
    """The first interactions and their ratings once more, at other times; inside the database, which is quick."""
    from django.db import connection

    from rewards.models import Interaction, Reward

    log, ratings = Interaction._meta.db_table, Reward._meta.db_table
    columns = {field.column for field in Interaction._meta.concrete_fields} - {"id", "created_at"}
    names = ", ".join(sorted(columns))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE fresh (old TEXT PRIMARY KEY, id TEXT, at TEXT)")
        cursor.execute(
            f"INSERT INTO fresh SELECT id, lower(hex(randomblob(16))), "
            f"datetime('now', '-' || abs(random() % {DAYS * 86400}) || ' seconds') FROM {log} ORDER BY rowid LIMIT {count}"
        )
        cursor.execute(
            f"INSERT INTO {log} (id, created_at, {names}) SELECT f.id, f.at, {names} FROM fresh f JOIN {log} i ON i.id = f.old"
        )
        cursor.execute(
            f"INSERT INTO {ratings} (interaction_id, source, rater, value, correction, comment, created_at, updated_at) "
            f"SELECT f.id, source, rater, value, correction, comment, f.at, f.at FROM fresh f JOIN {ratings} r "
            "ON r.interaction_id = f.old"
        )
        cursor.execute("DROP TABLE fresh")
    return count


def _requests() -> Iterator[tuple[str, Callable[[], Any]]]:
    from django.contrib.auth.models import User
    from django.test import Client
    from django.utils import timezone

    from adaptrag.api.services import key_create

    user = User.objects.filter(username="olga").first() or User.objects.create_superuser("olga", password="benchmark")  # noqa: S106
    page = Client()
    page.force_login(user)
    _, token = key_create(user=user, name=f"benchmark {time.time():.0f}", scope="operator")
    api = Client(headers={"Authorization": f"Bearer {token}"})
    month = (timezone.now() - timedelta(days=30)).isoformat()
    for name, client, path, query in (
        ("GET /api/rl/leaderboard", api, "/api/rl/leaderboard", {}),
        ("GET /api/rl/leaderboard, 30 days", api, "/api/rl/leaderboard", {"since": month}),
        ("GET /api/rl/stats", api, "/api/rl/stats", {}),
        ("admin's home, 7 days", page, "/admin/", {}),
        ("admin's home, 30 days", page, "/admin/", {"period": "30d"}),
        ("leaderboard page, all", page, "/admin/leaderboard/", {}),
        ("leaderboard page, 30 days", page, "/admin/leaderboard/", {"period": "30d"}),
    ):
        yield name, lambda client=client, path=path, query=query: _ok(client.get(path, query))


def _ok(response: Any) -> None:
    if response.status_code != 200:
        raise BenchmarkFailed(f"{response.request['PATH_INFO']} answered {response.status_code}: {response.content[:300]!r}")


def _writes(count: int) -> list[dict[str, Any]]:
    """Logging an interaction and rating it, with the sums and with their statement left out; in turns, so load hits both."""
    from unittest import mock

    from agents.models import AgentVariant
    from rewards.services import arms, feedback_record, interaction_log, interactions

    agent = AgentVariant.objects.first()
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def timed(kind: str, mode: str, function: Callable[[], Any]) -> Any:
        result, took = _clocked(function)
        times.setdefault((kind, mode), []).append(took)
        return result

    def write(mode: str) -> None:
        sources = [{"chunk_id": 1, "rank": 1, "text": PASSAGE}]
        fields = {"variant": agent, "category": "factual", "question": "Who?", "answer": "Marta.", "sources": sources}
        row = timed("log an interaction", mode, lambda: interaction_log(**fields))
        timed("rate it", mode, lambda: feedback_record(interaction_id=row.pk, reward=1.0, rater="ann"))

    for _ in range(count):
        write("")
        with mock.patch.object(interactions, "changes_note"), mock.patch.object(arms, "changes_note"):
            write(", without the sums")
    return [{"measured": f"{kind}{mode}", **_percentiles(values)} for (kind, mode), values in sorted(times.items())]


def _timed(request: Callable[[], Any], repeat: int) -> dict[str, float]:
    request()
    return _percentiles([_clocked(request)[1] for _ in range(repeat)])


def _clocked(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """The result, and (time, processor's time) in ms."""
    begun, used = time.perf_counter(), time.process_time()
    result = function()
    return result, ((time.perf_counter() - begun) * 1000, (time.process_time() - used) * 1000)


def _percentiles(took: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = (sorted(values) for values in zip(*took, strict=True))
    middle, late = len(wall) // 2, len(wall) * 95 // 100
    return {"p50_ms": round(wall[middle], 2), "p95_ms": round(wall[late], 2), "cpu_ms": round(cpu[middle], 2)}


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:4]))))
