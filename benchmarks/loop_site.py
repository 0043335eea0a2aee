"""The measured process of `benchmark loop`: a site of its own, played phase by phase; what is done is in its folder."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

GOES_ON = 75
ALIKE = {"prompt_passages": 3, "max_tokens": 32}
AGENTS = {
    "naive_rag": ("naive_rag", {}),
    "words_rag": ("naive_rag", {"retriever": "bm25"}),
    "hybrid_rag": ("hybrid_rag", {}),
}
BROKEN = "broken_rag"
REPORTED = 100  # questions of part C, asked at the beginning and at the end
CHUNK = 20  # rounds between two looks at the canary
CAP = 0.2


class InterruptedPlay(Exception):
    """The time is up; what was played is kept."""


class Site:
    """One run: its spec, its state between calls, its questions by part."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from adaptrag.simulation import part_of
        from agents.services import beir_collection
        from evals.sets import read_beir

        self.spec = spec
        self.folder = Path(spec["folder"])
        self.state_file = self.folder / "state.json"
        self.state: dict[str, Any] = json.loads(self.state_file.read_text()) if self.state_file.is_file() else {}
        dataset = Path(spec["dataset"])
        self.collection = beir_collection(dataset).name
        items = [item for item in read_beir(dataset) if item.answers]
        parts = {part: [item for item in items if part_of(item.key) == part] for part in "ABC"}
        reported = min(REPORTED, spec["rounds"] // 3, len(parts["C"]))
        self.asked, self.gate = parts["A"], parts["B"]
        self.reported = random.Random(0).sample(parts["C"], reported)

    def keep(self, **values: Any) -> None:
        self.state |= values
        aside = self.state_file.with_suffix(".tmp")
        aside.write_text(json.dumps(self.state))
        aside.replace(self.state_file)

    def set_up(self) -> None:
        """Agents, and the eval sets whose questions no dataset takes."""
        from agents.services import agent_register
        from evals.services import evalset_create

        if self.state.get("set_up"):
            return
        evalset_create(name="gate", items=self.gate, source="beir")
        evalset_create(name="report", items=self.reported, source="beir")
        for name, (strategy, parameters) in AGENTS.items():
            agent_register(
                name=name, strategy=strategy, chat_model=self.spec["model"], parameters=ALIKE | parameters, inherit=0.5
            )
        self.keep(set_up=True)

    def play(self, name: str, items: Sequence[Any], rounds: int, *, until: Any = None) -> list[Any]:
        """The rounds of a journal up to `rounds`, or until `until` says so between two chunks. Raises InterruptedPlay."""
        from adaptrag.simulation import Journal, Simulation, play
        from rewards.services import promotions_watch

        whole = Simulation(
            rounds=rounds, collection=self.collection, parallel=self.spec["parallel"], top_k=3, seed=sum(map(ord, name))
        )
        path = self.folder / f"{name}.jsonl"
        journal = Journal(path, whole, resume=True)
        while len(journal.rounds) < rounds and not (until and until()):
            simulation = replace(whole, rounds=min(rounds, len(journal.rounds) + CHUNK))
            if play(simulation, items, journal, progress=_tell(name)).interrupted:
                raise InterruptedPlay
            promotions_watch()
            journal = Journal(path, whole, resume=True)
        return sorted(journal.rounds, key=lambda played: played.number)

    def improve(self) -> Any:
        """One improvement, each heavy stage in a process of its own."""
        from adaptrag.common.jobs import job_run
        from adaptrag.common.reaper import jobs_reap
        from adaptrag.loop.models import LoopRun
        from adaptrag.loop.services import ImproveRequest, improve_get, improve_resume, improve_start, stage_current

        number = self.state.get("improvement")
        if number is None:
            request = ImproveRequest(
                force=True, eval_set="gate", model=self.spec["model"], steps=self.spec["steps"], top_k=3,
                quantize=self.spec["quantize"], questions=self.spec["questions"], collection=self.collection,
            )  # fmt: skip
            run = improve_start(request)
            self.keep(improvement=run.pk)
        else:
            jobs_reap()
            run = improve_get(number)
            if run.state in (LoopRun.State.FAILED, LoopRun.State.CANCELLED):
                run = improve_resume(run)
        while run.state == LoopRun.State.RUNNING:
            job = stage_current(run).job
            _tell("improve")(0, job.title)
            job_run(job.pk)
            run = improve_get(run.pk)
        if run.state != LoopRun.State.DONE:
            raise SystemExit(f"improve: {run.reason}")
        return run

    def broken(self, tuned: Any) -> Any:
        """A candidate like the tuned agent with noise for an adapter, made a canary against its gate's word."""
        import torch
        from safetensors.torch import load_file, save_file

        from agents.llm.adapters import WEIGHTS
        from agents.models import AgentVariant, ModelArtifact
        from agents.services import agent_register
        from rewards.services import variant_promote

        variant = AgentVariant.objects.filter(name=BROKEN).first()
        if variant is None:
            whole = tuned.artifact if tuned.artifact.kind == ModelArtifact.Kind.ADAPTER else tuned.artifact.parent
            folder = Path(os.environ["ADAPTRAG_DATA_DIR"]) / "artifacts" / "broken"
            folder.mkdir(parents=True, exist_ok=True)
            for file in whole.folder.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            torch.manual_seed(0)
            noise = {name: 0.5 * torch.randn(one.shape) for name, one in load_file(whole.folder / WEIGHTS).items()}
            save_file(noise, folder / WEIGHTS)
            artifact, _ = ModelArtifact.objects.get_or_create(
                name="broken",
                defaults={"kind": "adapter", "base_model": whole.base_model, "path": "artifacts/broken", "sha256": "0" * 64},
            )
            variant = agent_register(
                name=BROKEN, strategy="lora_rag", chat_model=whole.base_model, artifact=artifact, state="candidate",
                parameters=ALIKE, predecessor=tuned, inherit=0.25,
            )  # fmt: skip
        if variant.state == AgentVariant.State.CANDIDATE:
            reason = "The benchmark overrides the gate to see whether the guard catches it."
            variant_promote(variant, reason=reason, override=True, incumbent=tuned)
        return AgentVariant.objects.get(name=BROKEN)


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Rows {phase, rounds, mean_reward, interval, traffic}, and what the picture shows."""
    from agents.models import AgentVariant
    from rewards.services import variant_promote

    site = Site(spec)
    site.set_up()
    reported, rounds = len(site.reported), spec["rounds"]
    first = site.play("report", site.reported, reported)
    before = site.play("asked", site.asked, rounds - reported)
    run = site.improve()
    if run.candidate is None:
        raise SystemExit(f"improve: {run.verdict}: {run.reason}")
    after = site.play("asked", site.asked, 2 * (rounds - reported))[rounds - reported :]
    last = site.play("report", site.reported, 2 * reported)[reported:]
    tuned = AgentVariant.objects.get(pk=run.candidate_id)
    site.keep(tuned_state=site.state.get("tuned_state") or tuned.state)
    rows = [
        _row(f"before: part C, {reported} rounds", first),
        _row(f"before: part A, {len(before)} rounds", before),
        {
            "phase": f"improve: {run.verdict}", "candidate": str(run.candidate), "incumbent": str(run.incumbent),
            "seconds": round(sum(stage.seconds or 0 for stage in run.stages.all()), 1),
        },
        _row(f"after: part A, {len(after)} rounds", after),
        _row(f"after: part C, the same {reported} questions", last),
        _gain(first, last) | {"tuned_is": site.state["tuned_state"]},
    ]  # fmt: skip
    while tuned.state in (AgentVariant.State.CANDIDATE, AgentVariant.State.CANARY):
        variant_promote(tuned, reason="The benchmark needs it as the incumbent.", override=True, incumbent=run.incumbent)
        tuned.refresh_from_db()
    variant = site.broken(tuned)

    def over() -> bool:
        variant.refresh_from_db()
        return variant.state == AgentVariant.State.RETIRED

    played = site.play("broken", site.asked, spec["broken_rounds"], until=over)
    rows.append(_row("broken adapter, gate overridden", played) | _within(played, retired=over()))
    curve = [{"agent": one.agent, "reward": one.reward} for one in [*first, *before, *after, *last]]
    return {"rows": rows, "rounds": curve, "tuned": tuned.name, "improved_after": reported + len(before)}


def _row(phase: str, played: Sequence[Any]) -> dict[str, Any]:
    from evals.statistics import mean_interval

    rewards = [one.reward for one in played]
    counts = Counter(one.agent for one in played)
    mean = mean_interval(rewards)
    return {
        "phase": phase,
        "rounds": len(played),
        "mean_reward": round(sum(rewards) / len(rewards), 4),
        "interval": [round(mean.low, 4), round(mean.high, 4)],
        "traffic": {agent: round(count / len(played), 3) for agent, count in counts.most_common()},
    }


def _gain(first: Sequence[Any], last: Sequence[Any]) -> dict[str, Any]:
    """The ratio of the means, and the paired difference over the same questions with its interval."""
    from evals.statistics import compare

    before = {one.key: one.reward for one in first}
    (paired,) = compare({"first": [before[one.key] for one in last], "last": [one.reward for one in last]}, "first")
    means = [sum(one.reward for one in played) / len(played) for played in (first, last)]
    return {
        "phase": "last against first",
        "ratio": round(means[1] / means[0], 3) if means[0] else None,
        "difference": round(paired.difference, 4),
        "interval": [round(paired.low, 4), round(paired.high, 4)],
    }


def _within(played: Sequence[Any], *, retired: bool) -> dict[str, Any]:
    """The broken agent's share with its 95 % interval (Clopper & Pearson, 1934); within: the cap is not below it."""
    from scipy.stats import binomtest

    numbers = [one.number for one in played if one.agent == BROKEN]
    until = max(numbers) if retired and numbers else len(played)
    interval = binomtest(len(numbers), until).proportion_ci()
    return {
        "share": round(len(numbers) / until, 3),
        "share_interval": [round(interval.low, 3), round(interval.high, 3)],
        "within_cap": bool(interval.low <= CAP),
        "retired_after": until if retired else None,
    }


def _tell(name: str) -> Any:
    last = [0.0]

    def tell(fraction: float, message: str) -> None:
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {name}: {message}", file=sys.stderr, flush=True)

    return tell


def _interrupt(seconds: float, over: threading.Event) -> None:
    """Ctrl-C when the time is up, and again: a library in the middle of something may swallow one."""
    if over.wait(seconds):
        return
    os.kill(os.getpid(), signal.SIGINT)
    while not over.wait(5):
        os.kill(os.getpid(), signal.SIGINT)


def main(path: Path) -> int:
    import django

    spec = json.loads(path.read_text())
    Path(os.environ["ADAPTRAG_DATA_DIR"]).mkdir(parents=True, exist_ok=True)
    django.setup()
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    over = threading.Event()
    if spec["minutes"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
        threading.Thread(target=_interrupt, args=(60 * spec["minutes"], over), daemon=True).start()
    folder, begun = Path(spec["folder"]), time.monotonic()
    spent_file = folder / "seconds"
    spent = float(spent_file.read_text()) if spent_file.is_file() else 0.0
    try:
        found = measure(spec)
    except (InterruptedPlay, KeyboardInterrupt):
        return GOES_ON
    finally:
        over.set()
        spent_file.write_text(f"{spent + time.monotonic() - begun:.1f}")
    found["rows"].append({"phase": "all", "minutes": round(float(spent_file.read_text()) / 60, 1)})
    (folder / "result.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
