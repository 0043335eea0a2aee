"""Eval sets from files: what is wrong is named with its line, what is right comes back unchanged."""

import gzip
import json
import re

import pytest

from evals import sets
from evals.errors import BadEvalSet


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_jsonl_round_trip_is_lossless(tmp_path):
    items = [
        sets.Item(
            key="q1", question="Who?", answers=("Åse", "漢字"), gold={"a.md": 2.0}, category="factual", metadata={"n": [1]}
        ),
        sets.Item(key="q2", question="Why?"),
    ]
    items.append(sets.Item(key="q3", question="When \\u0000?", unanswerable=True))
    path = write(tmp_path / "set.jsonl", *(item.as_line() for item in items))
    assert sets.read_jsonl(path) == items
    assert sets.digest(sets.read_jsonl(path)) == sets.digest(items)


def test_fields_that_nobody_knows_are_kept_in_the_metadata(tmp_path):
    row = {"id": "q1", "question": "Who?", "difficulty": "hard", "asked_by": ["ola"], "metadata": {"n": 1}}
    (item,) = sets.read_jsonl(write(tmp_path / "set.jsonl", row))
    assert item.metadata == {"n": 1, "difficulty": "hard", "asked_by": ["ola"]}
    assert sets.read_jsonl(write(tmp_path / "again.jsonl", item.as_line())) == [item]


def test_the_predecessors_words_are_understood(tmp_path):
    path = write(tmp_path / "queries.jsonl", {"query": "Who?", "expected": "Marta", "gold": ["a.md"]})
    (item,) = sets.read_jsonl(path)
    assert (item.key, item.question, item.answers, item.gold) == ("line-1", "Who?", ("Marta",), {"a.md": 1.0})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{broken", "line 2 is not JSON"),
        ("[1]", "line 2 holds list, not an object"),
        ({"id": "q1", "question": "Again?"}, "line 2 repeats the id 'q1' of line 1"),
        ({"id": "q2"}, "line 2 has no question"),
        ({"id": "q2", "question": "  "}, "line 2 has no question"),
        ({"id": "q2", "question": "Who?", "answers": [1]}, "line 2: answers must be texts"),
        ({"id": "q2", "question": "Who?", "gold": {"a": -1}}, "line 2: gold must map"),
        ({"id": "q2", "question": "Who?", "metadata": 3}, "line 2: metadata must be an object"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"id": "q2", "question": "\\ud800?"}', "line 2 holds half a character"),
        ('{"id": "q2", "question": "Who?", "answers": ["\\ud800"]}', "line 2 holds half a character"),
        ('{"id": "q2", "question": "Who?", "metadata": {"x": NaN}}', "line 2 holds NaN, Infinity or a number too large"),
        ('{"id": "q2", "question": "Who?", "metadata": {"x": 1e999}}', "line 2 holds NaN, Infinity or a number too large"),
        ('{"id": "q2", "question": "Who?", "gold": {"a": -Infinity}}', "line 2 holds NaN, Infinity or a number too large"),
        ({"id": "q2", "question": "Who?", "gold": {"a": 10**400}}, "line 2: gold must map"),
        ({"id": "q2", "question": "Who?", "gold": [{"a": 1}]}, "line 2: gold must map"),
        ('{"id": "q2", "question": "Who\\u0000?"}', "line 2 holds a NUL"),
        ({"id": "q2", "question": "Who?", "category": "x" * 33}, "line 2: the category must be a text of at most 32"),
        ({"id": "q2", "question": "Who?", "unanswerable": True, "answers": ["a"]}, "line 2: unanswerable must be true"),
        ({"id": "q2", "question": "Who?", "level": 1, "metadata": {"level": 2}}, "line 2: 'level' stands beside"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, words):
    path = write(tmp_path / "set.jsonl", {"id": "q1", "question": "Who?"}, row)
    with pytest.raises(BadEvalSet, match=words.replace("(", r"\(")) as caught:
        sets.read_jsonl(path)
    assert caught.value.details["lines"] == [2]


def test_wrong_encoding_size_and_emptiness_are_named(tmp_path, monkeypatch):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"question": "Who?"}\n{"question": "\xe5se?"}\n')
    with pytest.raises(BadEvalSet, match="line 2 is not UTF-8"):
        sets.read_jsonl(path)
    path.write_bytes(b"\n")
    with pytest.raises(BadEvalSet, match="holds no question"):
        sets.read_jsonl(path)
    monkeypatch.setattr(sets, "MAX_BYTES", 50)
    with pytest.raises(BadEvalSet, match="more than 50 bytes"):
        sets.read_jsonl(write(tmp_path / "big.jsonl", *({"question": f"Who {index}?"} for index in range(9))))


def test_a_gzip_bomb_stops_at_the_limit(tmp_path):
    path = tmp_path / "set.jsonl.gz"
    with gzip.open(path, "wb") as handle:
        for _ in range(70):
            handle.write(b" " * 1_000_000 + b"\n")
    with pytest.raises(BadEvalSet, match="more than 64,000,000 bytes"):
        sets.read_jsonl(path)


def test_a_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": "Who?"}\n' * 50)[:-12])
    with pytest.raises(BadEvalSet, match="can't be read"):
        sets.read_jsonl(path)


def test_a_gzip_with_damaged_data_is_named(tmp_path):
    path = tmp_path / "set.jsonl.gz"
    whole = bytearray(gzip.compress(b'{"question": "Who keeps the lighthouse at the harbour?"}\n' * 50))
    whole[14:24] = b"\xff" * 10
    path.write_bytes(whole)
    with pytest.raises(BadEvalSet, match="can't be read"):
        sets.read_jsonl(path)


@pytest.mark.parametrize("answers", [5, {"a": 1}, [{"a": 1}], True])
def test_answers_of_a_beir_query_that_are_no_texts_are_named(tmp_path, answers):
    write(tmp_path / "queries.jsonl", {"_id": "q0", "text": "Who?", "metadata": {"answers": None}},
          {"_id": "q1", "text": "Who?", "metadata": {"answers": answers}})  # fmt: skip
    with pytest.raises(BadEvalSet, match="line 2: answers must be texts"):
        sets.read_beir(tmp_path)


def test_a_beir_query_without_answers_says_null_or_nothing_and_numbers_are_texts(tmp_path):
    write(tmp_path / "queries.jsonl", {"_id": "q0", "text": "Who?", "metadata": {"answers": None}},
          {"_id": "q1", "text": "When?", "metadata": {"answers": [1911]}})  # fmt: skip
    (item,) = sets.read_beir(tmp_path)
    assert (item.key, item.answers) == ("q1", ("1911",))


@pytest.mark.parametrize("gain", ["nan", "inf", "-1", "many"])
def test_a_gain_that_is_none_is_named(tmp_path, gain):
    write(tmp_path / "queries.jsonl", {"_id": "q1", "text": "Who?"})
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", f"q1\tp1\t{gain}")
    with pytest.raises(BadEvalSet, match=r"test\.tsv, line 2"):
        sets.read_beir(tmp_path)


def test_a_beir_folder_brings_answers_and_gold_passages(tmp_path):
    write(
        tmp_path / "queries.jsonl",
        {"_id": "q1", "text": "Who?", "metadata": {"answers": ["Marta"], "kind": "easy"}},
        {"_id": "q2", "text": "Unjudged?"},
        {"_id": "q3", "text": "Where?"},
    )
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\tp1\t1", "q3\tp1\t2", "q3\tp2\t0")
    items, name = sets.read_beir(tmp_path), tmp_path.name
    assert [item.key for item in items] == ["q1", "q3"]
    assert (items[0].answers, items[0].gold, items[0].metadata) == (("Marta",), {f"{name}/p1": 1.0}, {"kind": "easy"})
    assert items[1].gold == {f"{name}/p1": 2.0, f"{name}/p2": 0.0}


def test_a_beir_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(BadEvalSet, match=r"no queries\.jsonl"):
        sets.read_beir(tmp_path)
    write(tmp_path / "queries.jsonl", {"_id": "q1", "text": "Who?"})
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels" / "test.tsv", "q1 p1 1")
    with pytest.raises(BadEvalSet, match="line 1: expected query-id"):
        sets.read_beir(tmp_path)


def test_the_built_in_questions_name_pages_of_the_handbook(settings):
    from evals.services.sets import BUILT_IN

    items = sets.read_jsonl(BUILT_IN)
    assert len(items) >= 20
    for item in items:
        assert item.answers
        assert all((settings.BASE_DIR / page).is_file() for page in item.gold), item.key


def test_factual_and_procedural_gold_answers_stand_in_the_pages_that_they_name(settings):
    from evals.services.sets import BUILT_IN

    checked = 0
    for item in sets.read_jsonl(BUILT_IN):
        if item.category not in ("factual", "procedural"):
            continue
        pages = [" ".join((settings.BASE_DIR / page).read_text().lower().split()) for page in item.gold]
        for answer in item.answers:
            stands = re.compile(rf"(?<![\w.]){re.escape(answer.lower())}(?!\w)")
            assert any(stands.search(page) for page in pages), (item.key, answer)
        assert all(any(answer.lower() in page for answer in item.answers) for page in pages), item.key
        checked += 1
    assert checked >= 15
