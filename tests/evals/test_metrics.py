"""Metrics against hand-worked values and the published definitions."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.llm.base import Usage
from agents.retrieval.base import Passage
from agents.strategies.base import AgentAnswer
from evals import metrics
from evals.scoring import answer_metrics


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The cat.", "cat"),
        ("A, an; the", ""),
        ("  New   York ", "new york"),
        ("theory", "theory"),
        ("U.S.A", "usa"),
        ("İ", "i̇"),
    ],
)
def test_squad_normalisation(text, normalised):
    assert metrics.squad_normalised(text) == normalised


@pytest.mark.parametrize(
    ("answer", "golds", "f1", "em"),
    [
        ("The Eiffel Tower", ["Eiffel tower"], 1.0, 1.0),
        ("Paris, France", ["Paris"], 2 / 3, 0.0),
        ("in Paris Paris", ["Paris"], 0.5, 0.0),  # precision 1/3, recall 1: a repeated word counts once
        ("Rome", ["Paris", "Rome Italy"], 2 / 3, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),  # both empty after normalisation
        ("Berlin", ["Paris"], 0.0, 0.0),
    ],
)
def test_token_f1_and_exact_match(answer, golds, f1, em):
    assert metrics.token_f1(answer, golds) == pytest.approx(f1)
    assert metrics.exact_match(answer, golds) == em


def normalised_as_published(text):
    """SQuAD's rule by its definition: lower case, no punctuation, no articles, single spaces."""
    kept = "".join(character for character in text.lower() if not is_punctuation(character))
    parts, word = [], ""
    for character in kept:  # an article is a run of word characters that is exactly a, an or the
        if character.isalnum() or character == "_":
            word += character
            continue
        parts += [" " if word in ("a", "an", "the") else word, character]
        word = ""
    parts.append(" " if word in ("a", "an", "the") else word)
    return " ".join("".join(parts).split())


def is_punctuation(character):
    return character.isascii() and character.isprintable() and not character.isalnum() and character != " "


@given(
    st.lists(st.one_of(st.sampled_from(["the", "A", "an", "The.", "AN-", "theory", "a’s"]), st.text(max_size=6)), max_size=8)
)
def test_normalisation_agrees_with_a_second_implementation(parts):
    text = " ".join(parts)
    assert metrics.squad_normalised(text) == normalised_as_published(text)


@given(st.text(alphabet="aAnNthe .,-", max_size=14), st.text(alphabet="aAnNthe .,-", max_size=14))
def test_token_f1_agrees_with_a_second_implementation(answer, gold):
    left, right = normalised_as_published(answer).split(), normalised_as_published(gold).split()
    shared, rest = 0, list(right)
    for token in left:
        if token in rest:
            rest.remove(token)
            shared += 1
    both = len(left) + len(right)
    expected = float(not both) if not left or not right else 2 * shared / both
    assert metrics.token_f1(answer, [gold]) == pytest.approx(expected)
    assert metrics.exact_match(answer, [gold]) == float(left == right)


def test_without_golds_nothing_is_scored():
    for score in (
        metrics.token_f1("x", []),
        metrics.exact_match("x", []),
        metrics.rouge_l("x", []),
        metrics.recall_at(5, ["a"], []),
    ):
        assert math.isnan(score)


def test_rouge_l_follows_the_order_of_words():
    # LCS("police killed the gunman", "police kill the gunman") = police the gunman: 3 of 4 and 4 (Lin, 2004)
    assert metrics.rouge_l("police killed the gunman", ["police kill the gunman"]) == pytest.approx(0.75)
    assert metrics.rouge_l("the gunman kill police", ["police kill the gunman"]) == pytest.approx(0.5)
    assert metrics.rouge_l("", ["police"]) == 0.0


words = st.lists(st.sampled_from("abcde"), max_size=8).map(" ".join)


@given(words, words)
def test_rouge_l_is_symmetric_bounded_and_one_for_equals(left, right):
    score = metrics.rouge_l(left, [right])
    assert 0 <= score <= 1
    assert score == pytest.approx(metrics.rouge_l(right, [left]))
    if left:
        assert metrics.rouge_l(left, [left]) == 1.0


@given(words, st.lists(words, min_size=1, max_size=3))
def test_token_f1_is_never_below_exact_match(answer, golds):
    assert 0 <= metrics.exact_match(answer, golds) <= metrics.token_f1(answer, golds) <= 1


def test_ranking_metrics_on_a_worked_example():
    ranked, gold = ["d3", "d1", "d7", "d2"], ["d1", "d2"]
    assert metrics.recall_at(2, ranked, gold) == 0.5
    assert metrics.recall_at(4, ranked, gold) == 1.0
    assert metrics.reciprocal_rank_at(10, ranked, gold) == 0.5
    gained, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert metrics.ndcg_at(10, ranked, gold) == pytest.approx(gained / ideal)
    assert metrics.ndcg_at(10, ["d1", "d2"], {"d1": 2.0, "d2": 1.0, "d9": 0}) == pytest.approx(1.0)


def test_citations_are_checked_against_what_was_shown():
    assert metrics.citations("It is so [2], and [1][2].") == [2, 1]
    precision, recall = metrics.citation_precision_recall("So [1] [3] [9].", ["a", "b", "c"], ["a", "z"])
    assert (precision, recall) == (pytest.approx(1 / 3), 1.0)
    assert metrics.citation_precision_recall("So [1] [2] [3].", ["a", "a", "b"], ["a"]) == (pytest.approx(2 / 3), 1.0)
    precision, recall = metrics.citation_precision_recall("So.", ["a"], ["z"])
    assert math.isnan(precision) and math.isnan(recall)


def test_support_by_words_and_by_embedding():
    assert metrics.token_support("Marta Olsen lives here", ["The keeper is Marta Olsen."]) == 0.5
    assert math.isnan(metrics.token_support("", ["text"]))
    axes = {"up": [1.0, 0.0], "down": [-1.0, 0.0], "side": [0.0, 1.0]}

    def embed(texts):
        return np.array([axes[text.rstrip(".")] for text in texts])

    assert metrics.embedding_support("up. side.", ["up. down."], embed) == pytest.approx(0.5)
    assert metrics.embedding_support("down.", ["up."], embed) == 0.0


def answered(text, *, document=1, used=True):
    passage = Passage(
        chunk_id=7, document_id=document, document="d", heading="", text="Marta Olsen", score=1.0, rank=1, retriever="bm25"
    )
    return AgentAnswer(
        text=text, passages=(passage,), used=(7,) if used else (), trace=(), usage=Usage(), model="m", fallback=None,
        latency_ms=1.0,
    )  # fmt: skip


def test_a_citation_counts_for_the_passage_that_the_prompt_numbered_so():
    base = answered("She is [1].")
    passages = tuple(dataclasses.replace(base.passages[0], chunk_id=chunk, document_id=chunk) for chunk in (1, 2, 3))
    answer = dataclasses.replace(base, passages=passages, used=(3, 1))
    found = answer_metrics(answer, answers=[], gold={"c.md": 1.0}, sources={1: "a.md", 2: "b.md", 3: "c.md"}, top_k=3)
    assert (found["citation_precision"], found["mrr"]) == (1.0, pytest.approx(1 / 3, abs=1e-6))
    assert [source["chunk_id"] for source in answer.sources] == [3, 1, 2]


@pytest.mark.parametrize(
    ("text", "item", "expected"),
    [
        ("I do not know.", {"answers": ["Marta"]}, 0.0),  # answers alone: the documents are taken to hold it
        ("Marta.", {"answers": ["Marta"]}, 1.0),
        ("I do not know.", {"unanswerable": True}, 1.0),
        ("Marta.", {"unanswerable": True, "gold": {"a.md": 1.0}}, 0.0),
        ("I do not know.", {"gold": {"a.md": 1.0}}, 0.0),
        ("I do not know.", {"gold": {"other.md": 1.0}}, 1.0),
        ("Marta.", {}, None),
    ],
)
def test_abstaining_is_right_where_the_question_has_no_answer(text, item, expected):
    values = answer_metrics(answered(text), **({"answers": [], "gold": {}} | item), sources={1: "a.md"}, top_k=5)
    assert values.get("abstention") == expected
    unused = answer_metrics(answered(text, used=False), **({"answers": [], "gold": {}} | item), sources={1: "a.md"}, top_k=5)
    assert unused.get("abstention") == expected  # found and not put into a prompt: it could have been


def test_a_gold_passage_that_was_shown_and_not_cited_costs_recall():
    def recall(text, source="a.md"):
        values = answer_metrics(answered(text), answers=[], gold={source: 1.0}, sources={1: "a.md"}, top_k=5)
        return values.get("citation_recall")

    assert (recall("Marta."), recall("Marta [1]."), recall("Marta [2].")) == (0.0, 1.0, 0.0)
    assert recall("I do not know.") is None and recall("Marta.", "other.md") is None


def test_abstention_is_right_where_nothing_could_be_answered():
    assert metrics.abstention_quality(abstained=True, answerable=False) == 1.0
    assert metrics.abstention_quality(abstained=True, answerable=True) == 0.0
    assert metrics.abstention_quality(abstained=False, answerable=True) == 1.0
