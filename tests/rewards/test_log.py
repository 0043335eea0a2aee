from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import uuid
from datetime import UTC, datetime

import pytest
from django.core.management import call_command

from adaptrag.common.errors import InvalidInput
from agents.models import AgentVariant, Collection
from agents.retrieval.base import Passage
from rewards.errors import InvalidLogLine
from rewards.models import BanditArm, Interaction, PromotionDecision, Pull, Reward
from rewards.services import log_export, log_import
from tests.rewards.rows import figures, interaction, rate, variant

pytestmark = pytest.mark.django_db


def predecessor(*feedback, agent="naive_rag", **fields):
    """Lines as the file-based predecessor wrote them."""
    asked = {"interaction_id": "q-1", "question": "Why?", "agent": agent, "category": "factual", "top_k": 3, "num_sources": 2}
    return [json.dumps(asked | fields), *(json.dumps({"interaction_id": "q-1", "reward": value}) for value in feedback)]


def exported():
    handle = io.StringIO()
    log_export(handle)
    return handle.getvalue().splitlines()


def rich_log(django_user_model):
    """Interactions that use every column, rated by several raters; some failed, some compared."""
    dice = random.Random(4)
    agents = [variant("alpha"), variant("beta")]
    agents.append(variant("alpha", revision=2, predecessor=agents[0]))
    olga = django_user_model.objects.create_user("olga")
    shelf = Collection.objects.create(name="shelf")
    for i in range(30):
        asked = interaction(
            agents[i % 3], question=f"Why {i}? Ä\n\u2028", answer="Because \"of\" it.", category=("factual", "vague")[i % 2],
            messages=[{"role": "user", "content": "Hi"}], session=f"s{i}", collection=shelf if i % 4 else None, top_k=i,
            sources=[{"chunk_id": i, "document": "d.md", "text": "passage", "score": dice.random()}],
            trace=[{"step": "retrieve", "ms": 1.5}],
            model="m", fallback={"from": "a", "to": "b", "reason": "down"} if i % 5 == 0 else None, policy="thompson",
            mode=("bandit", "manual_override", "compare")[i % 3], policy_revision=2, propensity=dice.random(), seed=2**62 + i,
            candidates=[{"agent": "alpha", "probability": dice.random()}], prompt_tokens=i, completion_tokens=2 * i,
            cost_usd=dice.random() / 1e4, latency_ms=dice.random() * 1e3, asked_by=olga if i % 2 else None,
            created_at=datetime(2026, 5, 1, 12, 0, i, 123456, tzinfo=UTC),
        )  # fmt: skip
        for rater in ("ann", "bob")[: i % 3]:
            rate(asked, dice.random(), rater, correction="Since.", comment="ok", source=("user", "judge")[i % 2])
    interaction(agents[0], state="failed", answer="", error={"code": "x", "message": "down"})


def contents(model, *without):
    fields = [field.attname for field in model._meta.concrete_fields if field.attname not in without]
    return sorted(map(repr, model.objects.values_list(*fields)))


def test_every_column_survives_export_and_import_into_an_empty_database(django_user_model):
    rich_log(django_user_model)
    before = [contents(Interaction, "variant_id", "collection_id", "clock"), contents(Reward, "id"), exported()]
    arms = sorted(
        (arm.variant.name, arm.variant.revision, arm.category, arm.pulls, arm.total) for arm in BanditArm.objects.all()
    )
    PromotionDecision.objects.all()._raw_delete(PromotionDecision.objects.db)  # decisions are kept as long as their agents
    for row in [*Interaction.objects.all(), *AgentVariant.objects.order_by("-revision"), *Collection.objects.all()]:
        row.delete()
    assert not any(model.objects.exists() for model in (Pull, Reward, Interaction, BanditArm, AgentVariant, Collection))
    result = log_import(before[2], create_missing=True, on_error="stop")
    assert (result.interactions_created, result.rewards_created, result.agents_created, result.collections_created) == (
        31,
        30,
        3,
        1,
    )
    assert [contents(Interaction, "variant_id", "collection_id", "clock"), contents(Reward, "id"), exported()] == before
    again = sorted(
        (arm.variant.name, arm.variant.revision, arm.category, arm.pulls, arm.total) for arm in BanditArm.objects.all()
    )
    assert [row[:4] for row in again] == [row[:4] for row in arms]
    assert [row[4] for row in again] == pytest.approx([row[4] for row in arms], abs=1e-12)


def test_an_exported_line_names_everything_the_predecessor_did(django_user_model):
    rich_log(django_user_model)
    lines = [json.loads(line) for line in exported()]
    asked = next(line for line in lines if "question" in line)
    assert {"interaction_id", "question", "agent", "category", "top_k", "num_sources"} <= asked.keys()
    assert asked["num_sources"] == 1
    assert {"interaction_id", "reward"} <= next(line for line in lines if "reward" in line).keys()


def test_importing_the_same_file_again_changes_nothing(django_user_model):
    rich_log(django_user_model)
    lines = exported()
    before = [contents(model) for model in (Interaction, Reward, Pull)], figures()
    result = log_import(lines)
    assert ([contents(model) for model in (Interaction, Reward, Pull)], figures()) == before
    assert (result.interactions_known, result.rewards_unchanged) == (31, 30)
    assert result.interactions_created == result.rewards_created == result.rewards_replaced == result.skipped == 0


def test_the_predecessors_log_teaches_the_arms():
    naive = variant("naive_rag")
    result = log_import(predecessor(0.25))
    assert (result.lines, result.interactions_created, result.rewards_created, result.skipped) == (2, 1, 1, 0)
    row = Interaction.objects.get()
    assert (row.question, row.variant, row.category, row.top_k, row.mode) == ("Why?", naive, "factual", 3, "imported")
    assert row.trace == [{"step": "imported", "num_sources": 2}]
    assert figures() == {("factual", naive.pk): (1, 0.25, 0.0625)}


def test_the_last_of_several_ratings_stands_and_a_second_import_finds_it():
    naive = variant("naive_rag")
    log_import(predecessor(0.1, 1.0, 0.5))
    assert figures() == {("factual", naive.pk): (1, 0.5, 0.25)}
    again = log_import(predecessor(0.1, 1.0, 0.5))
    assert (again.rewards_replaced, again.rewards_unchanged) == (0, 1)


def test_ids_that_are_no_uuids_always_mean_the_same_interaction():
    variant("naive_rag")
    log_import(predecessor()[:1])
    log_import([json.dumps({"interaction_id": "q-1", "reward": 1})])
    log_import([json.dumps({"interaction_id": 17, "question": "Why?", "agent": "naive_rag", "category": "vague"})])
    assert Interaction.objects.count() == 2
    assert Reward.objects.get().interaction.question == "Why?"


def test_a_revision_that_the_line_does_not_name_is_the_newest():
    first = variant("naive_rag")
    second = variant("naive_rag", revision=2, predecessor=first)
    log_import(predecessor())
    assert Interaction.objects.get().variant == second


def test_an_unknown_agent_is_an_error_unless_it_shall_be_made():
    variant("other")
    result = log_import(predecessor(1.0, agent="old_rag"))
    assert result.skipped == 2
    assert result.errors[0]["line"] == 1
    assert "'old_rag'" in result.errors[0]["message"] and "agents: other" in result.errors[0]["message"]
    made = log_import(predecessor(1.0, agent="old_rag"), create_missing=True)
    assert (made.agents_created, made.skipped) == (1, 0)
    placeholder = AgentVariant.objects.get(name="old_rag")
    assert (placeholder.state, placeholder.enabled) == ("retired", False)


GOOD = predecessor()[0]
SOURCE = {"chunk_id": 1, "document": "a.md", "text": "Because."}


def logged(**fields):
    return json.dumps({"interaction_id": "q-3", "question": "Why?", "agent": "naive_rag", "category": "factual", **fields})


BAD = {
    "not JSON": "{",
    "a list": "[1]",
    "a number too large": '{"interaction_id": "q-1", "reward": 1e999}',
    "NaN": '{"interaction_id": "q-1", "reward": NaN}',
    "above 1": '{"interaction_id": "q-1", "reward": 2}',
    "text": '{"interaction_id": "q-1", "reward": "good"}',
    "neither": '{"interaction_id": "q-1"}',
    "no id": '{"reward": 1}',
    "a null id": '{"interaction_id": null, "reward": 1}',
    "unknown interaction": '{"interaction_id": "q-2", "reward": 1}',
    "not UTF-8": b'{"interaction_id": "q-1", "reward": 1, "comment": "\xff"}',
    "NUL": '{"interaction_id": "q-1", "reward": 1, "comment": "\\u0000"}',
    "half a surrogate pair": '{"interaction_id": "q-1", "reward": 1, "comment": "\\ud800"}',
    "nesting": "[" * 100_000,
    "an empty question": '{"interaction_id": "q-3", "question": "", "agent": "naive_rag", "category": "factual"}',
    "a question that is no text": '{"interaction_id": "q-3", "question": [1], "agent": "naive_rag", "category": "factual"}',
    "no category": '{"interaction_id": "q-3", "question": "Why?", "agent": "naive_rag"}',
    "no agent": '{"interaction_id": "q-3", "question": "Why?", "category": "factual"}',
    "a negative top_k": '{"interaction_id": "q-3", "question": "?", "agent": "naive_rag", "category": "factual", "top_k": -1}',
    "an unknown mode": '{"interaction_id": "q-3", "question": "?", "agent": "naive_rag", "category": "factual", "mode": "x"}',
    "sources of text": '{"interaction_id": "q-3", "question": "?", "agent": "naive_rag", "category": "vague", "sources": 1}',
    "a date that is none": '{"interaction_id": "q-1", "reward": 1, "created_at": "yesterday"}',
    "an unknown source": '{"interaction_id": "q-1", "reward": 1, "source": "oracle"}',
    "sources that are names": logged(sources=["a.md"]),
    "a source without its passage's id": logged(sources=[{"document": "a.md", "text": "Because.", "used": True}]),
    "a source without its document": logged(sources=[{"chunk_id": 1, "text": "Because.", "used": True}]),
    "a source without a text": logged(sources=[{"chunk_id": 1, "document": "a.md"}]),
    "a source beyond the database's integers": logged(sources=[SOURCE | {"chunk_id": 2**70}]),
    "a source from outside without its address": logged(sources=[SOURCE | {"chunk_id": -1}]),
    "a source whose address is a script": logged(sources=[SOURCE | {"url": "javascript:alert(1)"}]),
    "a source on rows that are no span": logged(sources=[SOURCE | {"place": {"rows": [1]}}]),
    "a source with scores of text": logged(sources=[SOURCE | {"scores": {"bm25": "high"}}]),
    "candidates that are names": logged(candidates=["x"]),
    "a candidate without a probability": logged(candidates=[{"agent": "naive_rag"}]),
    "a candidate without an agent": logged(candidates=[{"probability": 0.5}]),
    "a candidate that is chosen twice as often as always": logged(candidates=[{"agent": "naive_rag", "probability": 2}]),
    "a candidate with pulls and no mean": logged(candidates=[{"agent": "naive_rag", "probability": 1, "pulls": 3}]),
    "messages of text": logged(messages=["Hello"]),
    "a message of nobody": logged(messages=[{"role": "nobody", "content": "Hello"}]),
    "a message without content": logged(messages=[{"role": "user"}]),
    "a trace of text": logged(trace=["retrieve"]),
    "a step that took a text": logged(trace=[{"step": "chat", "ms": "long"}]),
    "a step with grades of text": logged(trace=[{"step": "grade", "grades": ["good"]}]),
    "a step that took nothing": logged(trace=[{"step": "chat", "ms": None}]),
    "a score beyond all numbers": logged(sources=[SOURCE | {"score": 10**400}]),
    "a step with a grade that is a list": logged(trace=[{"step": "grade", "grades": [{"grade": []}]}]),
    "a fall-back of text": logged(fallback="down"),
    "an error of text": logged(error="down", state="failed"),
    "a propensity of 0": logged(propensity=0),
    "a propensity below 0": logged(propensity=-0.5),
    "a propensity above 1": logged(propensity=1.5),
    "a propensity that is no number": logged(propensity="nan"),
    "a latency without end": logged(latency_ms="inf"),
    "a cost below 0": logged(cost_usd=-1),
}  # fmt: skip


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_bad_line_is_skipped_by_number(line):
    naive = variant("naive_rag")
    result = log_import([GOOD, line, "", '{"interaction_id": "q-1", "reward": 0.5}'])
    assert (result.skipped, result.interactions_created, result.rewards_created) == (1, 1, 1)
    assert [error["line"] for error in result.errors] == [2]
    assert result.errors[0]["message"].startswith("line 2: ")
    assert figures() == {("factual", naive.pk): (1, 0.5, 0.25)}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_bad_line_stops_the_import_with_nothing_imported(line):
    with pytest.raises(InvalidLogLine, match="line 3: ") as caught:
        log_import([GOOD, '{"interaction_id": "q-1", "reward": 0.5}', line], on_error="stop", create_missing=True)
    assert caught.value.details["line"] == 3
    assert not any(model.objects.exists() for model in (AgentVariant, Interaction, Reward, BanditArm))


def test_a_line_as_strategies_and_router_write_it_is_taken():
    """With what is null, empty, from outside the collection, or unknown to this version."""
    variant("naive_rag")
    passage = Passage(chunk_id=1, document_id=1, document="a.md", text="Because.", score=1, rank=1, retriever="bm25")
    outside = dataclasses.replace(passage, chunk_id=-2, url="https://example.org", place={"rows": [3, 9]}, scores={"web": 1.0})
    line = logged(
        sources=[passage.as_source() | {"used": True}, outside.as_source() | {"used": False, "later": [1]}],
        candidates=[{"agent": "naive_rag", "revision": 1, "variant_id": 1, "probability": 1.0, "pulls": 0.0, "mean": None}],
        messages=[{"role": "user", "content": ""}, {"role": "assistant", "content": "Yes."}],
        trace=[{"step": "retrieve", "at_ms": 0, "ms": 1.5, "found": [], "purpose": "question"}, {"step": "later", "new": {}}],
        propensity=1, fallback=None, error=None, mode="bandit",
    )  # fmt: skip
    result = log_import([line], on_error="stop")
    row = Interaction.objects.get()
    assert (result.interactions_created, len(row.sources), row.propensity) == (1, 2, 1)
    assert json.loads(exported()[0])["sources"] == row.sources


def test_stopping_late_undoes_earlier_batches(monkeypatch):
    variant("naive_rag")
    monkeypatch.setattr("rewards.services.imports.BATCH", 2)
    lines = [GOOD.replace("q-1", f"q-{i}") for i in range(7)]
    with pytest.raises(InvalidLogLine, match="line 8"):
        log_import([*lines, "{"], on_error="stop")
    assert not Interaction.objects.exists()
    assert log_import([*lines, "{"]).interactions_created == 7


def test_ratings_of_failed_answers_are_bad_lines():
    asked = interaction(variant("alpha"), state="failed", answer="", error={"message": "down"})
    result = log_import([json.dumps({"interaction_id": str(asked.pk), "reward": 1})])
    assert (result.skipped, Reward.objects.count()) == (1, 0)


def test_only_the_first_errors_are_kept():
    result = log_import(["{"] * 500)
    assert (result.skipped, len(result.errors)) == (500, 100)


def test_lines_without_dates_keep_their_order():
    variant("naive_rag")
    log_import([GOOD.replace("q-1", f"q-{i}").replace("Why", f"Why {i}") for i in range(5)])
    assert [row.question for row in Interaction.objects.order_by("created_at")] == [f"Why {i}?" for i in range(5)]


@pytest.mark.parametrize(
    ("given", "means"),
    [("2026-05-01T12:00:00Z", 12), ("2026-05-01T12:00:00", 12), ("2026-05-01T12:00:00+02:00", 10), (1777636800, 12)],
)
def test_dates_come_as_iso_text_or_unix_seconds(given, means):
    variant("naive_rag")
    log_import(predecessor(timestamp=given))
    assert Interaction.objects.get().created_at == datetime(2026, 5, 1, means, tzinfo=UTC)


def test_an_unknown_way_to_handle_errors_is_refused():
    with pytest.raises(InvalidInput, match="'ignore'"):
        log_import([], on_error="ignore")


# Commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_the_commands_round_trip_through_a_file(tmp_path, capsys, django_user_model, name):
    rich_log(django_user_model)
    call_command("export_log", "--out", str(tmp_path / name), "--json")
    out = json.loads(capsys.readouterr().out)
    assert out == {"file": str(tmp_path / name), "interactions": 31, "rewards": 30}
    assert list(tmp_path.iterdir()) == [tmp_path / name]
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "rt", encoding="utf-8", newline="\n") as handle:
        assert handle.read().split("\n")[:-1] == exported()
    Interaction.objects.all().delete()
    call_command("import_log", str(tmp_path / name), "--json")
    assert json.loads(capsys.readouterr().out)["interactions_created"] == 31


def test_export_goes_to_stdout_unless_a_file_is_named(capsys, django_user_model):
    rich_log(django_user_model)
    call_command("export_log")
    captured = capsys.readouterr()
    assert captured.out.split("\n")[:-1] == exported()
    assert captured.err == ""


def test_export_with_json_and_no_file_goes_under_the_data_folder(capsys, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    call_command("export_log", "--json")
    written = json.loads(capsys.readouterr().out)
    assert written == {"file": str(next((tmp_path / "exports").iterdir())), "interactions": 0, "rewards": 0}


def test_import_tells_bad_lines_on_stderr_and_counts_on_stdout(tmp_path, capsys):
    variant("naive_rag")
    path = tmp_path / "reward_log.jsonl"
    path.write_text("\n".join([GOOD, "{", *predecessor(0.5)[1:]]))
    call_command("import_log", str(path))
    captured = capsys.readouterr()
    assert captured.err.startswith("line 2: it is not valid JSON")
    assert "interactions created: 1" in captured.out


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a"', "line 1"), (None, "No such file"), (gzip.compress(b"x" * 9999)[:-9], "damaged")]
)
def test_import_that_fails_exits_with_1_and_says_why(tmp_path, capsys, content, message):
    path = tmp_path / "reward_log.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        call_command("import_log", str(path), "--on-error", "stop")
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_export_to_a_folder_that_is_not_there_exits_with_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        call_command("export_log", "--out", str(tmp_path / "nowhere" / "log.jsonl"))
    assert caught.value.code == 1
    assert "nowhere" in capsys.readouterr().err


def test_uuid_ids_are_kept():
    variant("naive_rag")
    pk = uuid.uuid4()
    log_import([GOOD.replace("q-1", str(pk))])
    assert Interaction.objects.get().pk == pk
