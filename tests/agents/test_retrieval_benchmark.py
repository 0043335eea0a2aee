"""The measures of `benchmark retrieval` against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.retrieval import ndcg, quality, recall, reciprocal_rank

RANKING = ["a", "b", "c", "d"]


def test_measures_of_one_ranking():
    relevant = {"b": 1, "d": 2, "z": 1}
    assert recall(RANKING, relevant, 2) == pytest.approx(1 / 3)
    assert recall(RANKING, relevant, 4) == pytest.approx(2 / 3)
    assert reciprocal_rank(RANKING, relevant, 4) == 0.5
    assert reciprocal_rank(RANKING, {"z": 1}, 4) == 0
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(RANKING, relevant, 4) == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / ideal)
    assert ndcg(["d", "b", "z"], relevant, 10) == pytest.approx(1)


def test_quality_is_the_mean_over_the_questions():
    found = quality({"1": RANKING, "2": []}, {"1": {"a": 1}, "2": {"a": 1}})
    assert found == {"recall@5": 0.5, "ndcg@10": 0.5, "mrr@10": 0.5}
