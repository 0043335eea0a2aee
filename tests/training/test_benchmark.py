"""`benchmark training` on a BEIR folder of a few questions and a model of a few kilobytes."""

import json
import subprocess
from pathlib import Path

import pytest

from adaptrag.common.errors import InvalidInput
from benchmarks import training
from benchmarks.measured import RESULT, BenchmarkFailed, Measured
from tests.agents.tiny_chat import make


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "towns"
    (folder / "qrels").mkdir(parents=True)
    rows = range(12)
    corpus = [{"_id": f"d{n}", "title": f"Town {n}", "text": f"Its bridge was built in {1700 + n}."} for n in rows]
    queries = [{"_id": f"q{n}", "text": f"When was town{n} built?", "metadata": {"answers": [str(1700 + n)]}} for n in rows]
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in corpus))
    (folder / "queries.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in [*queries, {"_id": "x", "text": "No gold"}])
    )
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in rows))
    return folder


def test_questions_come_with_their_gold_passages_in_the_prompt_of_lora_rag(dataset):
    found = training.read(dataset)
    assert len(found) == 12
    for one in found:
        assert one.messages[-1]["content"].endswith(" built?")
        assert one.answers[0] in one.messages[-1]["content"]


def test_a_folder_without_judgements_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="not a BEIR folder"):
        training.read(tmp_path)


@pytest.mark.slow
def test_the_table_has_a_row_for_the_base_the_plain_and_each_length(dataset, tmp_path, monkeypatch):
    options = {
        "dataset": dataset, "eval_dataset": None, "model": str(make(tmp_path / "student")), "steps": "1,2", "questions": 4,
        "seeds": 1, "no_plain": False, "from_feedback": False, "keep": tmp_path / "kept",
    }  # fmt: skip
    monkeypatch.setattr("training.lora.precision_for", lambda wanted: "fp32")
    rows = training.run(options, lambda *_: None)
    assert [row["steps"] for row in rows] == [0, 1, 1, 2]
    assert all(row["n"] == 4 and 0 <= row["token_f1"] <= 1 for row in rows)
    assert all(row["tokens_per_second"] > 0 and row["seconds"] > 0 for row in rows[1:])
    assert (rows[0]["tokens_per_second"], rows[0]["seconds"]) == (None, None)
    assert all(row["low"] <= row["token_f1"] <= row["high"] for row in rows)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("measured twice"))
    assert training.run(options, lambda *_: None) == rows


def test_several_seeds_have_a_mean_row_behind_them_and_the_base_has_none():
    nothing = dict.fromkeys(training.MEASURED)
    base = {"model": "m", "steps": 0, "seed": None, "token_f1": 0.1, "n": 4, "scores": [0.1] * 4} | nothing
    one = {"model": "m + adapter", "steps": 15, "n": 4, "tokens_per_second": 100.0, "seconds": 9.0}
    rows = [base]
    for seed in range(3):
        scores = [0.2 + seed / 10, 0.4 + seed / 10, 0.4 + seed / 10, 0.6 + seed / 10]
        rows.append(one | {"seed": seed, "token_f1": 0.4 + seed / 10, "peak_memory_bytes": seed, "scores": scores})
    *same, mean = training.with_means(rows)
    assert same == rows
    assert (mean["seed"], mean["n"], mean["peak_memory_bytes"]) == ("mean", 4, 2)
    assert mean["token_f1"] == pytest.approx(0.5)
    assert mean["scores"] == pytest.approx([0.3, 0.5, 0.5, 0.7])


def test_rows_carry_intervals_of_their_score_and_of_what_they_are_above_others():
    def row(model, steps, scores):
        return {"model": model, "steps": steps, "seed": 0, "token_f1": sum(scores) / len(scores), "scores": scores}

    base, plain, other, own, longer = training.with_intervals(
        [
            row("m", 0, [0.0, 0.1] * 20), row("plain LoRA, fp32", 15, [0.2, 0.4] * 20), row("plain LoRA, bf16", 15, [0.1] * 40),
            row("m + adapter", 15, [0.5, 0.6] * 20), row("m + adapter", 100, [0.9, 0.8] * 20),
        ]
    )  # fmt: skip
    assert other["over_plain"] is None
    assert longer["over_plain"] is None  # no plain LoRA of as many steps
    assert longer["over_base"][0] == pytest.approx(0.8)
    assert base["over_base"] is None
    assert base["over_plain"] is None
    assert plain["over_plain"] is None
    assert plain["over_base"][0] == pytest.approx(0.25)
    mean, low, high = own["over_plain"]
    assert low < mean < high
    assert mean == pytest.approx(0.25)
    assert own["low"] < own["token_f1"] < own["high"]
    assert "scores" not in own


def test_another_call_and_other_data_find_nothing_of_what_is_kept(tmp_path, monkeypatch):
    found, data = [], tmp_path / "data.txt"
    data.write_text("one")

    def measured(command, **_):
        found.append(Path(command[-1]))
        (found[-1] / RESULT).write_text("{}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", measured)
    for content, expected in (("one", 1), ("one", 1), ("two", 2)):
        data.write_text(content)
        with Measured(tmp_path, tmp_path / "kept", [data]) as child:
            child({"kind": "own"})
            assert len(set(found)) == len(found) == expected
            with pytest.raises(BenchmarkFailed, match="Another call"):
                Measured(tmp_path, tmp_path / "kept", [data])


@pytest.mark.slow
def test_simulated_users_give_examples_of_questions_that_are_not_held_out(dataset, tmp_path, settings):
    held_out = [question.key for question in training.read(dataset)[:4]]
    spec = {
        "kind": "feedback", "model": str(make(tmp_path / "student")), "dataset": str(dataset), "seed": 0, "held_out": held_out,
        "models_dir": str(settings.ADAPTRAG_MODELS_DIR), "rounds": 8, "correct_rate": 1.0,
    }  # fmt: skip
    found = Measured(tmp_path, None)(spec)
    assert (found["origins"], len(found["chats"])) == ({"correction": 8}, 8)
    for *prompt, answer in found["chats"]:
        town = int(answer["content"]) - 1700
        assert f"When was town{town} built?" in prompt[-1]["content"]
        assert f"q{town}" not in held_out
