"""Metrics against hand-worked values and the published definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import metrics


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


def test_abstention_is_right_where_nothing_could_be_answered():
    assert metrics.abstention_quality(abstained=True, answerable=False) == 1.0
    assert metrics.abstention_quality(abstained=True, answerable=True) == 0.0
    assert metrics.abstention_quality(abstained=False, answerable=True) == 1.0
