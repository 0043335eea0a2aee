"""The measured process behind `benchmark training --from-feedback`: a site of its own whose users rate and correct."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.loop_site import AGENTS, ALIKE


def collect(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Play the rounds, prepare a dataset of what was rated and corrected, and write its chats to `chats`.

    The questions of `held_out` are not asked, and are an eval set, so that none like them enters the dataset.
    """
    site = out / "site"
    site.mkdir()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_DATA_DIR": str(site),
        "DATABASE_URL": f"sqlite:///{site / 'db.sqlite3'}",
        "ADAPTRAG_MODELS_DIR": spec["models_dir"],
        "ADAPTRAG_LOCAL_MODEL": "inprocess",
    }
    import django

    django.setup()
    from django.core.management import call_command

    from adaptrag.simulation import Journal, Simulation, play
    from agents.services import agent_register, beir_collection
    from evals.services import evalset_create
    from evals.sets import read_beir
    from training.services import DatasetRequest, dataset_prepare
    from training.services.datasets import chats

    call_command("migrate", interactive=False, verbosity=0)
    dataset, held_out = Path(spec["dataset"]), set(spec["held_out"])
    collection = beir_collection(dataset).name
    items = [item for item in read_beir(dataset) if item.answers]
    evalset_create(name="held-out", items=[item for item in items if item.key in held_out], source="beir")
    for name, (strategy, parameters) in AGENTS.items():
        agent_register(name=name, strategy=strategy, chat_model=spec["model"], parameters=ALIKE | parameters)
    simulation = Simulation(
        rounds=spec["rounds"], collection=collection, parallel=4, top_k=3, correct_rate=spec["correct_rate"], seed=spec["seed"]
    )
    asked = [item for item in items if item.key not in held_out]
    played = play(simulation, asked, Journal(out / "rounds.jsonl", simulation, resume=False))
    if played.interrupted:
        raise KeyboardInterrupt
    made = dataset_prepare(DatasetRequest(student=spec["model"]))
    figures = {"mean_reward": sum(one.reward for one in played.rounds) / len(played.rounds), "origins": made.counts["origins"]}
    return figures | {"source": made.source, "chats": [*chats(made, "train"), *chats(made, "validation")]}
