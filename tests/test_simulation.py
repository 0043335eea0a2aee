"""simulate: the production loop, with a data set's gold answers as the people."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from django.core.management import call_command

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.simulation import Journal, Simulation, part_of, play
from agents.services import agent_register, beir_collection
from evals.metrics import token_f1
from evals.sets import Item
from rewards.models import Interaction, Reward
from tests.ops.site import Site

QUESTIONS = 60


def write(folder: Path, questions: int = QUESTIONS, passages: int = 20) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"_id": f"d{i}", "title": f"Thing {i}", "text": f"Thing {i} is made of stone."} for i in range(passages)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [
        {"_id": f"q{i}", "text": f"What is thing {i} made of?", "metadata": {"answers": ["grey stone"]}}
        for i in range(questions)
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    return folder


def scripted(name: str, answer: str, **options) -> None:
    agent_register(
        name=name,
        strategy="naive_rag",
        chat_backend="scripted",
        chat_options={"answer": answer, **options},
        parameters={"retriever": "bm25"},
    )


@pytest.fixture
def dataset(tmp_path, settings) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    return write(tmp_path / "Tiny set")


@pytest.fixture
def agents(db):
    scripted("good", "Grey stone."), scripted("half", "Grey wood."), scripted("bad", "Cheese.")


def simulate(dataset: Path, *words: str) -> dict:
    out = io.StringIO()
    call_command("simulate", str(dataset), *words, "--json", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def test_the_router_learns_whom_to_ask(agents, dataset):
    result = simulate(dataset, "--rounds", "150", "--part", "all", "--alone", "--seed", "3")
    assert (result["rounds"], result["failed"], result["interrupted"]) == (150, 0, False)
    assert [(window["from"], window["to"]) for window in result["windows"]] == [(i, i + 14) for i in range(1, 150, 15)]
    assert all(sum(window["traffic"].values()) == pytest.approx(1, abs=1e-3) for window in result["windows"])
    assert result["windows"][-1]["traffic"]["good"] > 0.7
    assert {agent: figures["mean_reward"] for agent, figures in result["agents"].items()} == {
        "bad": 0.0, "good": 1.0, "half": 0.5
    }  # fmt: skip
    assert sum(figures["n"] for figures in result["agents"].values()) == 150
    assert {agent: figures["mean_reward"] for agent, figures in result["alone"].items()} == {"bad": 0, "good": 1, "half": 0.5}
    assert result["best_fixed"] == {"agent": "good", "mean_reward": 1.0}
    assert result["oracle"] == 1.0
    assert result["regret"] == pytest.approx(150 * (1 - result["mean_reward"]), abs=1e-3)
    assert result["windows"][-1]["regret"] == result["regret"]


def test_what_it_reports_is_what_the_log_holds(agents, dataset):
    result = simulate(dataset, "--rounds", "40", "--correct-rate", "1")
    rows = list(Interaction.objects.all())
    assert len(rows) == Reward.objects.count() == 40
    assert {row.mode for row in rows} == {"bandit"}
    assert {part_of(f"q{int(row.question.split()[3])}") for row in rows} == {"A"}
    assert result["mean_reward"] == pytest.approx(sum(token_f1(row.answer, ["grey stone"]) for row in rows) / 40)
    for reward in Reward.objects.select_related("interaction"):
        assert reward.value == token_f1(reward.interaction.answer, ["grey stone"])
        assert reward.correction == ("grey stone" if reward.value < 0.5 else "")


def test_people_may_be_silent_noisy_and_brief(agents, dataset):
    simulate(dataset, "--rounds", "60", "--feedback-rate", "0.5", "--noise", "0.2", "--correct-rate", "0", "--part", "all")
    values = list(Reward.objects.values_list("value", flat=True))
    assert 15 < len(values) < 45
    assert all(0 <= value <= 1 for value in values)
    assert any(value not in (0, 0.5, 1) for value in values)
    assert not Reward.objects.exclude(correction="").exists()


def test_failed_answers_are_worth_nothing_and_counted(db, dataset):
    scripted("good", "Grey stone."), scripted("broken", "", fail="unavailable")
    result = simulate(dataset, "--rounds", "20", "--part", "all")
    assert result["failed"] == result["agents"]["broken"]["n"] > 0
    assert result["agents"]["broken"]["mean_reward"] == 0
    assert result["mean_reward"] == pytest.approx(result["agents"]["good"]["n"] / 20)


def test_agents_can_be_named_and_an_unknown_one_is_refused(agents, dataset):
    assert set(simulate(dataset, "--rounds", "10", "--agents", "half, bad")["agents"]) <= {"half", "bad"}
    error = io.StringIO()
    with pytest.raises(SystemExit) as stop:
        call_command("simulate", str(dataset), "--agents", "nobody", stderr=error)
    assert stop.value.code == 1
    assert "nobody" in error.getvalue()


@pytest.mark.parametrize("words", [("--rounds", "0"), ("--noise", "2"), ("--feedback-rate", "-1"), ("--parallel", "0")])
def test_wrong_values_are_named(agents, dataset, words):
    error = io.StringIO()
    with pytest.raises(SystemExit) as stop:
        call_command("simulate", str(dataset), *words, stderr=error)
    assert stop.value.code == 2
    assert words[0] in error.getvalue()


def test_a_table_is_shown_without_json(agents, dataset):
    out = io.StringIO()
    call_command("simulate", str(dataset), "--rounds", "20", "--alone", stdout=out, stderr=io.StringIO())
    assert "All 20 rounds: mean reward" in out.getvalue()
    assert "Best agent alone: good with 1.000" in out.getvalue()


@pytest.mark.slow
def test_rounds_are_played_in_parallel(dataset, tmp_path):
    site = Site(tmp_path / "site")
    site.manage("migrate")
    register = "from agents.services import agent_register\n" + "".join(
        f"agent_register(name={name!r}, strategy='naive_rag', chat_backend='scripted',"
        f" chat_options={{'answer': {answer!r}, 'delay': 0.4}}, parameters={{'retriever': 'bm25'}})\n"
        for name, answer in (("good", "Grey stone."), ("bad", "Cheese."))
    )
    site.start(register).communicate(timeout=60)
    result = site.must("simulate", str(dataset), "--rounds", "12", "--parallel", "4", "--part", "all")
    assert (result["rounds"], result["failed"]) == (12, 0)
    with closing(sqlite3.connect(site.folder / "db.sqlite3")) as database:
        times = [
            datetime.fromisoformat(at) for (at,) in database.execute("SELECT created_at FROM rewards_interaction ORDER BY 1")
        ]
        (rated,) = database.execute("SELECT SUM(pulls) FROM rewards_banditarm").fetchone()
    assert len(times) == rated == 12
    assert (times[3] - times[0]).total_seconds() < 0.4  # four begin before the first has ended


def test_an_agent_that_searches_sentences_answers_every_question(db, dataset):
    agent_register(name="sentences", strategy="sentence_window_rag", chat_backend="scripted", state="candidate")
    result = simulate(dataset, "--rounds", "6", "--agents", "sentences@1")
    assert result["collection"] == "tiny-set"
    assert Interaction.objects.filter(error__isnull=True).count() == 6


def test_an_interrupted_simulation_goes_on_where_it_stopped(agents, dataset, tmp_path):
    items = [Item(key=f"q{i}", question=f"What is thing {i} made of?", answers=("grey stone",)) for i in range(8)]
    simulation = Simulation(rounds=12, collection=beir_collection(dataset).name, agents=("good",))
    path = tmp_path / "journal.jsonl"

    def stop(fraction: float, message: str) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    outcome = play(simulation, items, Journal(path, simulation, resume=False), progress=stop)
    assert outcome.interrupted
    assert len(outcome.rounds) == 5
    outcome = play(simulation, items, Journal(path, simulation, resume=True))
    assert [played.number for played in outcome.rounds] == list(range(1, 13))
    assert len({played.key for played in outcome.rounds[:8]}) == 8  # each once before any twice
    assert Interaction.objects.count() == 12
    other = Simulation(rounds=12, collection=simulation.collection, agents=("good",), noise=0.1)
    with pytest.raises(Conflict, match="other settings"):
        Journal(path, other, resume=True)


def test_a_set_without_answers_is_refused(agents, dataset, tmp_path):
    simulation = Simulation(rounds=1, collection="tiny-set")
    with pytest.raises(InvalidInput, match="no question with a gold answer"):
        play(simulation, [Item(key="q", question="Why?")], Journal(tmp_path / "j", simulation, resume=False))


def test_questions_are_split_once_for_all():
    parts = [part_of(f"q{i}") for i in range(2000)]
    assert [parts.count(part) / 2000 for part in "ABC"] == pytest.approx([0.6, 0.2, 0.2], abs=0.04)
    assert [part_of(key) for key in ("q0", "q1", "q2", "q3")] == ["B", "A", "A", "A"]
