"""The whole loop on a set never seen: 300 rounds, one improvement, 300 more; then a broken adapter against the tuned agent.

A site of its own, in a folder that the next call goes on from: stopped by --minutes, Ctrl-C or a kill, the same command
continues. Reward is token F1 by gold answers. Part A is asked and trained on, part B gates, part C reports: its questions are
the first and the last to be asked, and neither train nor gate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from adaptrag.common.errors import AdaptRAGError, InvalidInput

ROOT = Path(__file__).resolve().parent.parent
GOES_ON = 75  # exit code of the measured process when its time is up
WIDTH, HEIGHT, LEFT, TOP = 720, 300, 46, 16
SMOOTHED = 40  # rounds of the moving mean in the picture


class Unfinished(AdaptRAGError):
    code = "unfinished"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="a BEIR folder with answers")
    parser.add_argument("--rounds", type=int, default=300, help="before the improvement, and again after it (300)")
    parser.add_argument("--broken-rounds", type=int, default=200, help="most rounds with the broken adapter (200)")
    parser.add_argument("--steps", type=int, default=15, help="of the training (15)")
    parser.add_argument("--questions", type=int, default=120, help="most that the gate asks (120)")
    parser.add_argument("--quantize", default="none", help="mode of the build that becomes the candidate (none)")
    parser.add_argument("--model", default="", help="of all agents, and the student (the shipped one)")
    parser.add_argument("--parallel", type=int, default=4, help="questions at once (4)")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; the same command goes on (no limit)")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--picture", type=Path, help="where the learning curve goes (in the run's folder)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {phase, rounds, mean_reward, interval, traffic, ...}; see benchmarks/loop_site.py. Raises Unfinished."""
    from django.conf import settings

    dataset = options["dataset"].expanduser().resolve()
    if not (dataset / "queries.jsonl").is_file():
        raise InvalidInput(f"{dataset} has no queries.jsonl: it is not a BEIR folder with answers.")
    folder = Path(settings.DATA_DIR) / "benchmarks" / f"loop-{dataset.name}"
    if options["fresh"]:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("rounds", "broken_rounds", "steps", "questions", "quantize", "model", "parallel", "minutes")
    spec = {name: options[name] for name in names} | {"dataset": str(dataset), "folder": str(folder)}
    (folder / "spec.json").write_text(json.dumps(spec))
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_DATA_DIR": str(folder / "site"),
        "DATABASE_URL": f"sqlite:///{folder / 'site' / 'db.sqlite3'}",
        "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
        "ADAPTRAG_LOCAL_MODEL": "inprocess",
        "ADAPTRAG_CANARY_MAX_SHARE": "0.2",
        "ADAPTRAG_TEACHER_MODEL": "",
    }
    command = [sys.executable, "-m", "benchmarks.loop_site", str(folder / "spec.json")]
    code = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode
    if code:
        why = "Its time is up" if code == GOES_ON else f"The measurement stopped with code {code}"
        raise Unfinished(f"{why}; the same command goes on where it was ({folder}).")
    found = json.loads((folder / "result.json").read_text())
    picture = options["picture"] or folder / "learning-curve.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(drawn(found["rounds"], found["tuned"], found["improved_after"], dataset.name))
    progress(1, f"learning curve: {picture}")
    return found["rows"]


def drawn(rounds: Sequence[dict[str, Any]], tuned: str, improved_after: int, name: str) -> str:
    """The learning curve as SVG: moving mean of the reward as a line, the tuned agent's share of the traffic as an area."""
    rewards = moving([one["reward"] for one in rounds])
    share = moving([float(one["agent"] == tuned) for one in rounds])
    top = max(0.1, *(round(reward + 0.05, 1) for reward in rewards))

    def x(number: float) -> float:
        return LEFT + (WIDTH - 2 * LEFT) * number / max(1, len(rounds))

    def y(fraction: float) -> float:
        return TOP + (HEIGHT - 2 * TOP - 30) * (1 - fraction)

    begin = min(len(rounds), SMOOTHED // 2)  # means of fewer rounds jump

    def points(values: Sequence[float], most: float) -> str:
        kept = list(enumerate(values, start=1))[begin - 1 :]
        return " ".join(f"{x(number):.1f},{y(value / most):.1f}" for number, value in kept)

    marks = [f'<text x="{LEFT - 6}" y="{y(part) + 4:.1f}" text-anchor="end">{top * part:.2f}</text>' for part in (0, 0.5, 1)]
    marks += [f'<text x="{WIDTH - LEFT + 6}" y="{y(part) + 4:.1f}" class="share">{part:.0%}</text>' for part in (0, 0.5, 1)]
    marks += [
        f'<text x="{x(number):.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{number}</text>'
        for number in range(0, len(rounds) + 1, 100)
    ]
    area = f"{x(begin):.1f},{y(0):.1f} {points(share, 1.0)} {x(len(rounds)):.1f},{y(0):.1f}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="font: 12px sans-serif">
<title>Learning curve of the loop on {escape(name)}</title>
<style>text {{ fill: #475569 }} .share {{ fill: #b45309 }}</style>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<polygon points="{area}" fill="#fde68a" fill-opacity=".6"/>
<line x1="{x(0):.1f}" x2="{x(len(rounds)):.1f}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#94a3b8"/>
<path d="M{x(improved_after):.1f} {y(0):.1f}V{y(1):.1f}" stroke="#94a3b8" stroke-dasharray="4 4"/>
<text x="{x(improved_after) - 6:.1f}" y="{y(1) + 10:.1f}" text-anchor="end">improve</text>
<polyline points="{points(rewards, top)}" fill="none" stroke="#0f766e" stroke-width="2"/>
{chr(10).join(marks)}
<text x="{LEFT}" y="{HEIGHT - 8}" style="fill: #0f766e">reward (token F1), mean of {SMOOTHED} rounds</text>
<text x="{WIDTH / 2 + 30}" y="{HEIGHT - 8}" text-anchor="middle">rounds</text>
<text x="{WIDTH - LEFT}" y="{HEIGHT - 8}" text-anchor="end" class="share">share of the tuned agent</text>
</svg>
"""


def moving(values: Sequence[float]) -> list[float]:
    """Means of the last SMOOTHED values (fewer at the start)."""
    return [sum(part) / len(part) for part in (values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1))]
